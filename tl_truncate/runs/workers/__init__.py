"""Work that several processes share, on one machine or many: each has its own model."""
