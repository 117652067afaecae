"""A part of MLP outputs taken away while the model runs: as cuts and contexts, and as plain hooks."""
