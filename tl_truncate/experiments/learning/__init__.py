"""Which components to remove, learned by gradients of their strengths."""
