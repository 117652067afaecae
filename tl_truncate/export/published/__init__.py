"""The published weights that a model has: by what name, in which files, and where in them."""
