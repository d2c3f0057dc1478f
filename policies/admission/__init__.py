"""Admission: how much may enter a round, and what can never run."""
