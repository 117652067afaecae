"""What all figures share: the look, the file, and a word where matplotlib is missing."""
