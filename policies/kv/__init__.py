"""Kv: see the modules."""
