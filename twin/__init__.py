"""The front door: the `twin` command."""
