"""Rotary position embeddings, as they are and stretched: llama3 and yarn.

A head's first and second half are the two coordinates of its planes (the layout of HuggingFace
checkpoints, not the interleaved one of llama.cpp). Scaling changes only how fast each plane turns,
and for yarn how long the turned vectors are. Rules and defaults as in transformers'
`modeling_rope_utils`; yarn is Peng et al. 2023 (arXiv:2309.00071).

It knows frequencies and rotations, not where a config keeps them (`runtime.models.hf_config`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's: slow planes turn `factor` times slower, fast ones as before, a ramp between.

    Attributes:
        factor: how many times longer contexts become.
        low_freq_factor: planes that turn less than so often in the original context are slow.
        high_freq_factor: those that turn more than so often are fast.
        original_context: tokens the model was pretrained for.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied with."""
        return 1.0

    def scale(self, frequencies: Tensor, theta: float) -> Tensor:  # noqa: ARG002 - as yarn's
        """Frequencies in radians per token, from the unscaled ones."""
        turns = frequencies * (self.original_context / (2 * math.pi))
        span = self.high_freq_factor - self.low_freq_factor
        keep = ((turns - self.low_freq_factor) / span).clamp(0.0, 1.0)
        return keep * frequencies + (1.0 - keep) * frequencies / self.factor


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN: as llama3's with the ramp over plane numbers, and longer vectors.

    Attributes:
        factor: how many times longer contexts become.
        original_context: tokens the model was pretrained for.
        attention_factor: what cosines and sines are multiplied with.
        beta_fast: planes that turn more than so often in the original context stay as they are.
        beta_slow: those that turn less than so often are slowed by `factor`.
        truncate: whether the ramp's ends are whole planes.
    """

    factor: float
    original_context: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    @staticmethod
    def attention_factor_for(
        factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
    ) -> float:
        """The attention factor where a config gives none."""

        def length(weight: float) -> float:
            return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

        if mscale and mscale_all_dim:
            return length(mscale) / length(mscale_all_dim)
        return length(1.0)

    def scale(self, frequencies: Tensor, theta: float) -> Tensor:
        """Frequencies in radians per token, from the unscaled ones."""
        planes = frequencies.numel()

        def plane_turning(turns: float) -> float:
            context = self.original_context / (turns * 2 * math.pi)
            return planes * math.log(context) / math.log(theta)

        low, high = plane_turning(self.beta_fast), plane_turning(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * planes - 1)
        width = high - low if high != low else 0.001
        ramp = ((torch.arange(planes, dtype=torch.float32) - low) / width).clamp(0.0, 1.0)
        return ramp * frequencies / self.factor + (1.0 - ramp) * frequencies


@dataclass(frozen=True, slots=True)
class Rope:
    """A model's rotary embedding: the base of its frequencies, and how they are scaled."""

    theta: float
    scaling: Llama3Scaling | YarnScaling | None = None

    def frequencies(self, head_dim: int) -> Tensor:
        """Radians per token of each plane, float32 (head_dim / 2,)."""
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        plain = 1.0 / (self.theta**exponents)
        return plain if self.scaling is None else self.scaling.scale(plain, self.theta)

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied with."""
        return 1.0 if self.scaling is None else self.scaling.attention_factor


class RotaryEmbedding(nn.Module):
    """Cosines and sines of positions, computed once per step for all layers."""

    frequencies: Tensor

    def __init__(self, rope: Rope, head_dim: int, device: torch.device | str) -> None:
        super().__init__()
        self.attention_factor = rope.attention_factor
        self.register_buffer("frequencies", rope.frequencies(head_dim).to(device), persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, each (T, 1, head_dim) in `dtype`.

        Args:
            positions: int64 (T,).
            dtype: the angles are float32 whatever it is.
        """
        angles = positions[:, None].float() * self.frequencies
        cos, sin = angles.cos() * self.attention_factor, angles.sin() * self.attention_factor
        # the first half's sine is negated here, so that rotating is two products and a sum
        cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return cos.to(dtype).unsqueeze(1), sin.to(dtype).unsqueeze(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads turned to their positions: x (T, heads, head_dim), `RotaryEmbedding`'s cos and sin."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin
