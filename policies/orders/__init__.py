"""Queue orders, one a module."""
