"""A GGUF's metadata as a `ModelConfig`.

Keys are llama.cpp's, prefixed by the architecture. Llama 3.1's rope scaling is not in the metadata
but in a tensor of divisors, one per plane; its parameters are recovered from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from runtime.models.config import Experts, ModelConfig
from runtime.models.rope import Llama3Scaling, Rope, YarnScaling

if TYPE_CHECKING:
    from runtime.weights.gguf import GGUFFile

MODEL_TYPES: Final = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
}
"""The architectures that can be served, by their names in GGUF files."""

ROPE_FREQUENCIES: Final = "rope_freqs.weight"
_LLAMA3: Final = (1.0, 4.0, 8192)  # low and high frequency factor and context of all Llama 3.x


@dataclass(frozen=True, slots=True)
class _Metadata:
    values: dict[str, Any]
    prefix: str
    where: str

    def number(self, key: str, default: float | None = None) -> float:
        match self.values.get(f"{self.prefix}.{key}"):
            case None if default is not None:
                return default
            case int() | float() as value if value > 0:
                return float(value)
            case found:
                msg = f"{self.where}: {self.prefix}.{key} is {found!r}; expected a number above 0"
                raise ValueError(msg)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if value != int(value):
            msg = f"{self.where}: {self.prefix}.{key} is {value!r}; expected a whole number"
            raise ValueError(msg)
        return int(value)


def gguf_config(file: GGUFFile) -> ModelConfig:
    """The config of a GGUF's model.

    Raises:
        ValueError: an unsupported architecture (lists those supported) or rope scaling, a key that
            is missing or impossible; names file and key.
    """
    where, values = str(file.path), file.metadata
    architecture = values.get("general.architecture")
    if architecture not in MODEL_TYPES:
        msg = (
            f"{where}: architecture {architecture!r} is not supported; "
            f"supported: {', '.join(MODEL_TYPES)}"
        )
        raise ValueError(msg)
    m = _Metadata(values, architecture, where)
    model_type = MODEL_TYPES[architecture]
    hidden_size, heads = m.integer("embedding_length"), m.integer("attention.head_count")
    kv_heads = m.integer("attention.head_count_kv", heads)
    if heads % kv_heads:
        msg = f"{where}: attention.head_count_kv {kv_heads} does not divide head_count {heads}"
        raise ValueError(msg)
    head_dim = m.integer("attention.key_length", hidden_size // heads)
    if m.integer("rope.dimension_count", head_dim) != head_dim:
        msg = f"{where}: {architecture}.rope.dimension_count must be {head_dim}, the head dimension"
        raise ValueError(msg)
    embedding = file.shape("token_embd.weight")
    if embedding is None:
        raise ValueError(f"{where}: tensor 'token_embd.weight' is missing; every model has one")
    layers = m.integer("block_count")
    tokens = (values.get(f"tokenizer.ggml.{k}_token_id") for k in ("eos", "eot", "eom"))
    has_bias = file.shape("blk.0.attn_q.bias") is not None
    return ModelConfig(
        model_type=model_type,
        hidden_size=hidden_size,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        # a model whose layers all hold experts has no dense width
        intermediate_size=m.integer("feed_forward_length", hidden_size),
        vocab_size=embedding[0],
        max_position_embeddings=m.integer("context_length"),
        rms_norm_eps=m.number("attention.layer_norm_rms_epsilon"),
        rope=_rope(m, file, head_dim),
        tied_embeddings=file.shape("output.weight") is None,
        qkv_bias=model_type == "qwen2" or has_bias,
        output_bias=file.shape("blk.0.attn_output.bias") is not None,
        mlp_bias=file.shape("blk.0.ffn_down.bias") is not None,
        qk_norm=model_type in {"qwen3", "qwen3_moe"},
        experts=_experts(m, layers) if model_type == "qwen3_moe" else None,
        dtype=file.dtype(),
        bos_id=values.get("tokenizer.ggml.bos_token_id"),
        eos_ids=tuple(dict.fromkeys(int(t) for t in tokens if t is not None)),
    )


def _experts(m: _Metadata, layers: int) -> Experts:
    return Experts(
        count=m.integer("expert_count"),
        per_token=m.integer("expert_used_count"),
        intermediate_size=m.integer("expert_feed_forward_length"),
        normalised=True,  # llama.cpp computes qwen3moe so, whatever a file says
        layers=tuple(range(layers)),
    )


def _rope(m: _Metadata, file: GGUFFile, head_dim: int) -> Rope:
    theta = m.number("rope.freq_base", 10_000.0)
    if file.shape(ROPE_FREQUENCIES) is not None:
        return Rope(theta, _llama3(m, file, Rope(theta).frequencies(head_dim)))
    kind = m.values.get(f"{m.prefix}.rope.scaling.type", "none")
    if kind == "none":
        return Rope(theta)
    if kind != "yarn":
        msg = (
            f"{m.where}: {m.prefix}.rope.scaling.type {kind!r} is not supported; supported: none, "
            f"yarn, and llama3 (a tensor {ROPE_FREQUENCIES})"
        )
        raise ValueError(msg)
    factor = m.number("rope.scaling.factor")
    original = m.integer("rope.scaling.original_context_length", m.integer("context_length"))
    length = YarnScaling.attention_factor_for(factor)
    return Rope(
        theta,
        YarnScaling(
            factor,
            original,
            attention_factor=length * m.number("rope.scaling.attn_factor", 1.0),
            beta_fast=m.number("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=m.number("rope.scaling.yarn_beta_slow", 1.0),
        ),
    )


def _llama3(m: _Metadata, file: GGUFFile, plain: torch.Tensor) -> Llama3Scaling:
    """The scaling whose divisors a file holds: the slowest plane's is the factor itself."""
    divisors = file.values(ROPE_FREQUENCIES)
    low, high, context = _LLAMA3
    scaling = Llama3Scaling(float(divisors.max()), low, high, context)
    expected = plain / scaling.scale(plain, m.number("rope.freq_base", 10_000.0))
    if divisors.shape != plain.shape or not torch.allclose(divisors, expected, rtol=1e-3):
        msg = (
            f"{m.where}: tensor {ROPE_FREQUENCIES!r} is not Llama 3's rope scaling (frequency "
            f"factors {low:g} and {high:g} in a context of {context}), the only one supported"
        )
        raise ValueError(msg)
    return scaling
