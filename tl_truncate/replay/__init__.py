"""Running a model from the middle: the same blocks, called again as the model called them."""
