"""A linear associative memory, solved on paper."""
