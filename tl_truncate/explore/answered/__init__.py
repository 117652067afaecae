"""What a page is answered: passes of its prompt, cuts from there, the map, scores, and Python."""
