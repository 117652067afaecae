"""A miniature of grade-school sums, as a task of the harness: JSON lines and YAML."""
