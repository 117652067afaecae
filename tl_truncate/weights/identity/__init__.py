"""Which weights these are: by content, by origin, and whether passes repeat to the bit."""
