"""Measurements on a GPU, in stages that can be resumed: `python -m benchmarks.gpu`."""
