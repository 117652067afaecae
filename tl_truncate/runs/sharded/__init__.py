"""A run of which each of several processes makes a share: begun together, made one run again."""
