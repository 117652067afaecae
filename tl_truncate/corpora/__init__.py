"""Running text, and its reading."""
