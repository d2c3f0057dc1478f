"""Readers: one file a format, found by what a file holds; `read` is the way in."""
