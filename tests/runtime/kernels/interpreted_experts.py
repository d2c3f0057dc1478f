"""The Triton experts in Triton's interpreter. Run by test_interpreter.py, in a process of its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from runtime.kernels import experts_triton
from runtime.kernels.experts import experts, rows_per_expert
from runtime.kernels.experts_triton import expert_blocks
from tests.runtime.kernels.routed import Layer, layers, route


@pytest.mark.parametrize(
    "layer",
    [
        Layer(tokens=3, choices=2, experts=4),
        Layer(tokens=7, choices=8, experts=9, hidden=72, inner=24),
        Layer(tokens=40, choices=1, experts=3, skew=1e3),  # one expert, in several blocks
    ],
)
@pytest.mark.parametrize("few_rows", [16, 0])
def test_triton_is_the_reference(
    layer: Layer, few_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if few_rows == 0:  # blocks of 64 rows
        monkeypatch.setattr(experts_triton, "FEW_ROWS", 0)
    case = route(layer)
    right = experts(*case, impl="reference")
    torch.testing.assert_close(experts(*case, impl="triton"), right, atol=1e-5, rtol=1e-5)


def test_triton_in_half_precision() -> None:
    layer = Layer(tokens=5, choices=2, experts=4)
    out = experts(*route(layer, torch.float16), impl="triton")
    right = experts(*route(layer), impl="reference")
    torch.testing.assert_close(out.float(), right, atol=5e-3, rtol=5e-3)


@given(layer=layers(200))
@settings(deadline=None)
def test_blocks_cover_every_row_once_each_of_one_expert(layer: Layer) -> None:
    ids = route(layer).ids
    counts = rows_per_expert(ids, layer.experts)
    owner = torch.repeat_interleave(torch.arange(layer.experts), counts).tolist()
    covered: list[int] = []
    for expert, start, stop in zip(*expert_blocks(counts, ids.numel(), 16), strict=True):
        assert 0 <= int(stop) - int(start) <= 16
        covered += range(int(start), int(stop))
        assert all(owner[row] == int(expert) for row in range(int(start), int(stop)))
    assert covered == list(range(ids.numel()))
