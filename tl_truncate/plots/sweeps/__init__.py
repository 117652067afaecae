"""What is drawn of a sweep."""
