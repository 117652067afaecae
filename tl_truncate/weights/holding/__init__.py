"""Weights that are no plain parameters: kept elsewhere between passes, or quantised."""
