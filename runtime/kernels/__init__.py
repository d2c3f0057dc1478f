"""Kernels that the runtime's models and attention backends are built on."""
