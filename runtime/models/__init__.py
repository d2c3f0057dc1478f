"""The models served: Llama, Qwen2, Qwen3 and Qwen3-MoE as one decoder, told apart by its config."""
