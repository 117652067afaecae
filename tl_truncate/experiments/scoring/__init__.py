"""Scores of a model on a task, and of cuts on running text."""
