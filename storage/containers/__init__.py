"""How the records of a shard become one object."""
