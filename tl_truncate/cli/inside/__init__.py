"""Commands that look inside: weights, what parts write, and what of it would matter."""
