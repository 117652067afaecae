"""Ways to take the global part away, side by side."""
