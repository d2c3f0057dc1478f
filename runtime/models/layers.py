"""The parts of a decoder layer: linear maps, norms, attention's two sides, the gated MLP.

Matrices that read the same input are one parameter and one product: queries, keys and values; gate
and up. Parameters are made empty and without gradients; `runtime.weights` fills them. Attention
itself happens between the two sides of `Attention`, wherever the KV cache is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.models.rope import rotate

if TYPE_CHECKING:
    from runtime.models.config import ModelConfig


def empty(*shape: int, dtype: torch.dtype, device: torch.device | str) -> nn.Parameter:
    """A parameter that is yet to be filled."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


class Linear(nn.Module):
    """`x @ weight.T + bias`: weight (outputs, inputs), bias (outputs,) or None."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self.weight = empty(outputs, inputs, dtype=dtype, device=device)
        self.bias = empty(outputs, dtype=dtype, device=device) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return functional.linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    """Vectors scaled to a root mean square of one, then by a weight per element."""

    weight: Tensor

    def __init__(
        self, size: int, eps: float, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        super().__init__()
        self.weight = empty(size, dtype=dtype, device=device)
        self.size = (size,)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size), the same out."""
        return functional.rms_norm(x, self.size, self.weight, self.eps)


class Attention(nn.Module):
    """What surrounds attention: the projections into heads, and the one out of them."""

    def __init__(self, c: ModelConfig, *, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c.heads, c.kv_heads, c.head_dim
        width = (c.heads + 2 * c.kv_heads) * c.head_dim
        self.qkv = Linear(c.hidden_size, width, bias=c.qkv_bias, dtype=dtype, device=device)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if c.qk_norm:
            self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps, dtype=dtype, device=device)
            self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps, dtype=dtype, device=device)
        self.output = Linear(
            c.heads * c.head_dim, c.hidden_size, bias=c.output_bias, dtype=dtype, device=device
        )

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of normed hidden states x (T, hidden_size).

        Returns:
            q (T, heads, head_dim) and k (T, kv_heads, head_dim), rotated and contiguous; v
            (T, kv_heads, head_dim), whose rows are strided: it is a view of the fused product.
        """
        rows = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = rows.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q, cos, sin), rotate(k, cos, sin), v


class GatedMLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, c: ModelConfig, *, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        inner = c.intermediate_size
        self.gate_up = Linear(c.hidden_size, 2 * inner, bias=c.mlp_bias, dtype=dtype, device=device)
        self.down = Linear(inner, c.hidden_size, bias=c.mlp_bias, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(T, hidden_size), the same out."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        down: Tensor = self.down(functional.silu(gate) * up)
        return down
