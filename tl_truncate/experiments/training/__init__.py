"""A task over the checkpoints of a training run."""
