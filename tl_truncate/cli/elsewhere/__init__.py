"""Commands that take a cut elsewhere."""
