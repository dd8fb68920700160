"""How items, or a few changes, become an index."""
