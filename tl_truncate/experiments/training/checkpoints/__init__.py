"""One checkpoint at a time: what is asked of it, by whom it is read, and what it said."""
