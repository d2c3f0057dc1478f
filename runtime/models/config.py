"""What a decoder is built from: sizes, which parts it has, and where it stops.

A `ModelConfig` says it in one way, whatever file it came from: `runtime.models.hf_config` reads a
HuggingFace config.json, `runtime.weights.gguf_config` a GGUF's metadata. The four architectures
differ only in these values. It knows no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from runtime.models.rope import Rope

ARCHITECTURES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""The model types that can be served, and the class names that a config.json has for them."""


@dataclass(frozen=True, slots=True)
class Experts:
    """The mixture of experts in some or all layers.

    Attributes:
        count: experts of a layer.
        per_token: how many of them a token goes to.
        intermediate_size: inner width of one.
        normalised: whether the chosen experts' weights are scaled to sum to one.
        layers: which layers hold experts instead of one MLP, ascending, from 0.
    """

    count: int
    per_token: int
    intermediate_size: int
    normalised: bool
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only transformer, as `runtime.models.decoder` builds it.

    Attributes:
        model_type: one of `ARCHITECTURES`.
        hidden_size: width of the residual stream.
        layers: how many.
        heads: query heads.
        kv_heads: key and value heads, a divisor of `heads`.
        head_dim: elements of a head, even.
        intermediate_size: inner width of the dense layers' MLP.
        vocab_size: rows of the embedding; token ids are below it.
        max_position_embeddings: context length in tokens.
        rms_norm_eps: added to the mean square in every norm.
        rope: the rotary embedding.
        tied_embeddings: the LM head is the embedding table.
        qkv_bias: queries, keys and values have biases.
        output_bias: the attention's output has one.
        mlp_bias: the MLP's projections have them.
        qk_norm: every query and key head is normalised before it is rotated.
        experts: the mixture of experts; None in a dense model.
        dtype: full name of the type the checkpoint is kept in.
        bos_id: the token a text begins with; None if there is none.
        eos_ids: tokens that end an answer, in the order the checkpoint names them.
    """

    model_type: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: Rope
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    experts: Experts | None
    dtype: str
    bos_id: int | None
    eos_ids: tuple[int, ...]

    @property
    def architecture(self) -> str:
        """The class name of the architecture, as a config.json has it."""
        return ARCHITECTURES[self.model_type]

    def has_experts(self, layer: int) -> bool:
        """Whether a layer holds experts instead of one MLP."""
        return self.experts is not None and layer in self.experts.layers
