"""Cache: see the modules."""
