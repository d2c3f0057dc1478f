"""Orders: see the modules."""
