"""How the work of a sweep is done: what shares its passes and memory, what is finished, and by whom."""
