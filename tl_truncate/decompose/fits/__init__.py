"""What fits on a corpus have in common: one pass, going on, and knowing the weights they are of."""
