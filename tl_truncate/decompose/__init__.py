"""What an MLP's output is made of: a global and an in-context part, exactly additive."""
