"""A mixture of experts: the router chooses, `runtime.kernels.experts` computes.

Routing as in Qwen3-MoE: a softmax over all experts in float32, the best k of them, their weights
scaled to sum to one where the config says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from runtime.kernels.experts import experts
from runtime.models.layers import Linear, empty

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.models.config import ModelConfig


class MixtureOfExperts(nn.Module):
    """Experts of one layer: w13 (count, 2 * inner, hidden), gate above up; w2 (count, hidden, inner)."""

    w13: Tensor
    w2: Tensor

    def __init__(self, c: ModelConfig, *, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        assert c.experts is not None
        self.per_token, self.normalised = c.experts.per_token, c.experts.normalised
        count, inner = c.experts.count, c.experts.intermediate_size
        self.router = Linear(c.hidden_size, count, dtype=dtype, device=device)
        self.w13 = empty(count, 2 * inner, c.hidden_size, dtype=dtype, device=device)
        self.w2 = empty(count, c.hidden_size, inner, dtype=dtype, device=device)
        # a kernel of its own: where the rest of the layer is compiled, it is called as it is
        leave_eager: Any = torch.compiler.disable
        self._experts: Callable[..., Tensor] = leave_eager(experts)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """For tokens x (T, hidden): expert ids int64 (T, k), and weights (T, k) in x's dtype."""
        shares = torch.softmax(self.router(x), dim=-1, dtype=torch.float32)
        weights, ids = shares.topk(self.per_token, dim=-1)
        if self.normalised:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return ids, weights.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(T, hidden), the same out."""
        ids, weights = self.route(x)
        return self._experts(x, ids, weights, self.w13, self.w2)
