"""The parts a model's shape is put together from: see the modules."""
