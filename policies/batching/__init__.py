"""Batching: see the modules."""
