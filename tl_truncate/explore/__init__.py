"""Surgery on a model, live: in a notebook, and as a page on this machine."""
