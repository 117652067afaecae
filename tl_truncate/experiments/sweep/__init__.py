"""Every cut of a grid, each alone."""
