"""Every implementation of experts is the plain loop, however uneven the load."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings

from runtime.kernels.experts import experts, fastest
from tests.runtime.kernels.routed import Layer, layers, route


@given(layer=layers())
@example(layer=Layer(tokens=1, choices=8, experts=12))
@example(layer=Layer(tokens=40, choices=1, experts=12, skew=1e3))  # all to one expert
@settings(max_examples=60, deadline=None)
def test_grouped_is_the_reference(layer: Layer) -> None:
    case = route(layer)
    right = experts(*case, impl="reference")
    torch.testing.assert_close(experts(*case, impl="grouped"), right, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(experts(*case), right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_grouped_in_half_precision(dtype: torch.dtype) -> None:
    case = route(Layer(50, 4, 8), dtype)
    right = experts(*route(Layer(50, 4, 8)), impl="reference")
    out = experts(*case, impl="grouped")
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), right, atol=3e-2, rtol=3e-2)


def test_the_reference_is_the_sum_it_says() -> None:
    x, ids, weights, w13, w2 = route(Layer(5, 2, 4))
    out = experts(x, ids, weights, w13, w2, impl="reference")
    for t in range(5):
        right = torch.zeros(24)
        for k in range(2):
            gate, up = (w13[ids[t, k]] @ x[t]).chunk(2)
            right += weights[t, k] * (w2[ids[t, k]] @ (gate * gate.sigmoid() * up))
        torch.testing.assert_close(out[t], right, atol=1e-5, rtol=1e-5)


def test_experts_without_a_token_are_not_touched() -> None:
    case = route(Layer(6, 2, 10))
    idle = [e for e in range(10) if e not in set(case.ids.flatten().tolist())]
    assert idle
    case.w13[idle] = torch.nan
    case.w2[idle] = torch.nan
    assert experts(*case, impl="grouped").isfinite().all()


def test_on_the_cpu_auto_is_grouped() -> None:
    assert fastest(torch.device("cpu")) == "grouped"


def test_what_does_not_fit_together_is_refused() -> None:
    case = route(Layer(6, 2, 4))
    with pytest.raises(ValueError, match=r"w13 has shape \(4, 79, 24\).*call for \(4, 80, 24\)"):
        experts(*case._replace(w13=case.w13[:, 1:]))
    with pytest.raises(ValueError, match=r"weights has shape \(5, 2\).*call for \(6, 2\)"):
        experts(*case._replace(weights=case.weights[1:]))
    with pytest.raises(ValueError, match="'fast'; known: auto, reference, grouped, triton"):
        experts(*case, impl="fast")
