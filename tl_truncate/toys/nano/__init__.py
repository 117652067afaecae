"""A Pythia in small, on a generated English."""
