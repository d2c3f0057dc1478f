"""Text from token ids, as they come: incremental detokenisation and stop strings."""
