"""Weights and tokenizers: from a HuggingFace folder, a GGUF file, or random ones."""
