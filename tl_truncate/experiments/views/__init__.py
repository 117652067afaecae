"""Results as HTML fragments, for notebooks and for the report."""
