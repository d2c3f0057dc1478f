"""The shape of a model whatever file says it: what `ModelShape.load` reads, or a GGUF (llama.cpp's format).

A run of the runtime names the GGUF that it was made with, and a profile calibrated from it is of that
model: a simulation takes the same path. Of a GGUF only the metadata and the tensors' shapes are looked at;
weights that it holds quantised count as bfloat16, as the runtime keeps them. It does not know tokenizers or
rotary embeddings.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from policies.model_shape import ModelShape

if TYPE_CHECKING:
    from gguf import GGUFReader

_ARCHITECTURES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3moe": "Qwen3MoeForCausalLM",
}
"""Architectures by their names in GGUF files: those that the runtime serves."""

_KEYS: Final = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
"""Keys of a config.json, and where a GGUF has them, below its architecture's name."""

_UNQUANTISED: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def load_shape(source: str | Path) -> ModelShape:
    """A shape from all that `ModelShape.load` reads, or from a GGUF file.

    Raises:
        ValueError: as `ModelShape.load` does; for a GGUF that cannot be read, is of an architecture not
            supported, or needs the package `gguf` where that is not installed.
    """
    path = Path(source)
    if path.suffix.lower() != ".gguf" or not path.is_file():
        return ModelShape.load(source)
    return ModelShape.from_config(_as_config(_opened(path), path), name=path.stem, where=str(path))


def _opened(path: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError:
        raise ValueError(
            f"{path} is a GGUF, and the package that reads it is not installed: pip install "
            "'schedtwin[runtime]', or give the bundled name or the config.json of the model in it"
        ) from None
    try:
        return GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: not readable ({error}); expected a whole GGUF file") from None


def _as_config(reader: GGUFReader, path: Path) -> dict[str, Any]:
    """What the model's config.json says of its shape."""
    architecture = _value(reader, "general.architecture")
    if architecture not in _ARCHITECTURES:
        raise ValueError(
            f"{path}: architecture {architecture!r} is not supported; supported: "
            f"{', '.join(_ARCHITECTURES)}"
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{path}: tensor 'token_embd.weight' is missing; every model has one")
    config = {key: _value(reader, f"{architecture}.{name}") for key, name in _KEYS.items()}
    if config["intermediate_size"] is None:  # all layers may hold experts
        config["intermediate_size"] = config["moe_intermediate_size"]
    kinds = {t.tensor_type.name for t in reader.tensors if len(t.shape) > 1}
    stored = {_UNQUANTISED.get(kind, "bfloat16") for kind in kinds}
    return {
        **config,
        "architectures": [_ARCHITECTURES[architecture]],
        "vocab_size": int(tensors["token_embd.weight"].shape[-1]),  # columns first
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": architecture != "qwen2" and "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in tensors,
        "torch_dtype": stored.pop() if len(stored) == 1 else "bfloat16",
    }


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
