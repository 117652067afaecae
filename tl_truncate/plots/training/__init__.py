"""What is drawn over training."""
