"""Commands about machines: what a run will take, its shards made one, and what is kept on the disk."""
