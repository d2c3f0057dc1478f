"""The one exception of the records: something about a run's files is not as it has to be."""


class RecordError(Exception):
    """A run cannot be written or read; the message names the file and what would be right."""
