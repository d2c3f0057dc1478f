"""The real world: a torch runtime for the shared scheduler. Not built yet."""
