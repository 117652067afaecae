"""What the first screen of each kind of page says."""
