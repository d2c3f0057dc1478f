"""Random mixture-of-experts layers, routed evenly, unevenly, and past some experts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st


class Routed(NamedTuple):
    """Arguments of `experts`."""

    x: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor
    w13: torch.Tensor
    w2: torch.Tensor


class Layer(NamedTuple):
    """The sizes of a layer; a `skew` above 1 sends most tokens to few experts."""

    tokens: int
    choices: int
    experts: int
    hidden: int = 24
    inner: int = 40
    skew: float = 1.0
    seed: int = 0


@st.composite
def layers(draw: st.DrawFn, most_tokens: int = 60) -> Layer:
    experts = draw(st.integers(1, 12))
    return Layer(
        tokens=draw(st.integers(1, most_tokens)),
        choices=draw(st.integers(1, min(8, experts))),
        experts=experts,
        skew=draw(st.sampled_from((0.1, 1.0, 30.0))),
        seed=draw(st.integers(0, 99)),
    )


def route(
    layer: Layer, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Routed:
    random = torch.Generator().manual_seed(layer.seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    scores = draw(layer.tokens, layer.experts) + layer.skew * draw(layer.experts)
    weights, ids = scores.softmax(-1).topk(layer.choices, dim=-1)
    return Routed(
        draw(layer.tokens, layer.hidden).to(device, dtype),
        ids.to(device),
        weights.to(device),
        (draw(layer.experts, 2 * layer.inner, layer.hidden) * layer.hidden**-0.5).to(device, dtype),
        (draw(layer.experts, layer.hidden, layer.inner) * layer.inner**-0.5).to(device, dtype),
    )
