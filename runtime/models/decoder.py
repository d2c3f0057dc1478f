"""One decoder for Llama, Qwen2, Qwen3 and Qwen3-MoE.

It works on a flat batch: T tokens of any number of sequences, one after the other. Which tokens
belong together, and where their keys and values are kept, is known only to the `attend` it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.models.layers import Attention, GatedMLP, RMSNorm, empty
from runtime.models.rope import RotaryEmbedding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runtime.models.config import ModelConfig
    from runtime.models.moe import MixtureOfExperts


class DecoderLayer(nn.Module):
    """A layer in two halves, before and after attention."""

    def __init__(
        self, c: ModelConfig, layer: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        super().__init__()
        size, eps = c.hidden_size, c.rms_norm_eps
        self.input_norm = RMSNorm(size, eps, dtype=dtype, device=device)
        self.attention = Attention(c, dtype=dtype, device=device)
        self.mlp_norm = RMSNorm(size, eps, dtype=dtype, device=device)
        self.mlp: GatedMLP | MixtureOfExperts
        if c.has_experts(layer):
            from runtime.models.moe import MixtureOfExperts

            self.mlp = MixtureOfExperts(c, dtype=dtype, device=device)
        else:
            self.mlp = GatedMLP(c, dtype=dtype, device=device)

    def before(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of hidden states (T, hidden_size); see `Attention.project`."""
        return self.attention.project(self.input_norm(hidden), cos, sin)

    def after(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The layer's output, from its input and the attended heads (T, heads, head_dim)."""
        hidden = hidden + self.attention.output(attended.flatten(1))
        out: Tensor = hidden + self.mlp(self.mlp_norm(hidden))
        return out


class Decoder(nn.Module):
    """The whole model. Its parameters are empty until `runtime.weights` fills them.

    Attributes:
        config: what it was built from.
        embedding: (vocab_size, hidden_size).
        head: the same shape; the same tensor where embeddings are tied.
    """

    embedding: Tensor
    head: Tensor
    layers: Sequence[DecoderLayer]

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.config = config
        shape = (config.vocab_size, config.hidden_size)
        self.embedding = empty(*shape, dtype=dtype, device=device)
        layers = [DecoderLayer(config, i, dtype=dtype, device=device) for i in range(config.layers)]
        self.layers = cast("Sequence[DecoderLayer]", nn.ModuleList(layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype, device=device)
        tied = config.tied_embeddings
        self.head = self.embedding if tied else empty(*shape, dtype=dtype, device=device)
        self.rope = RotaryEmbedding(config.rope, config.head_dim, device)
        self._before: Callable[..., tuple[Tensor, Tensor, Tensor]] = DecoderLayer.before
        self._after: Callable[..., Tensor] = DecoderLayer.after

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and of everything in between."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.embedding.device

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Hidden states after the last norm, (T, hidden_size).

        Args:
            tokens: int64 (T,), each below `vocab_size`.
            positions: int64 (T,), of each token in its own sequence.
            attend: called per layer with its number, q (T, heads, head_dim), and k and v
                (T, kv_heads, head_dim); gives the attended heads, of q's shape.
        """
        hidden = functional.embedding(tokens, self.embedding)
        cos, sin = self.rope(positions, hidden.dtype)
        for i, layer in enumerate(self.layers):
            q, k, v = self._before(layer, hidden, cos, sin)
            hidden = self._after(layer, hidden, attend(i, q, k, v))
        normed: Tensor = self.norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token, float32 (n, vocab_size), for rows of `forward`'s output."""
        return functional.linear(hidden, self.head).float()

    def compile_layers(self, **options: Any) -> None:
        """Compile what lies between attention calls with `torch.compile`.

        Only these pieces: `attend` stays eager, as do experts. All layers share the code compiled
        for the first, so that compiling takes no longer for a deep model.

        Args:
            options: for `torch.compile`.
        """
        self._before = torch.compile(DecoderLayer.before, **options)
        self._after = torch.compile(DecoderLayer.after, **options)
