"""The front door: the `twin` command, and the experiments that need both worlds."""
