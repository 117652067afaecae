"""How it is cut, live: cuts, their controls, and the hooks that make a model feel them."""
