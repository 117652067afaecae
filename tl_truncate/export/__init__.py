"""A cut taken elsewhere: as an adapter, or as a checkpoint, that need nothing of this package."""
