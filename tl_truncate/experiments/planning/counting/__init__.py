"""What a run is made of, counted and not run."""
