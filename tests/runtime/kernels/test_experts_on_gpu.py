"""The fused experts and torch's grouped matmul on CUDA, eagerly and out of a captured graph."""

from __future__ import annotations

import pytest
import torch

from runtime.kernels.experts import experts
from tests.runtime.kernels.routed import Layer, route

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

LAYERS = {
    "decode": Layer(tokens=8, choices=8, experts=128, hidden=2048, inner=768),
    "prefill": Layer(tokens=700, choices=8, experts=64, hidden=1024, inner=384, skew=3.0),
    "one expert": Layer(tokens=300, choices=1, experts=16, hidden=256, inner=128, skew=1e3),
}


@pytest.mark.parametrize("impl", ["triton", "grouped", "auto"])
@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_is_near_the_reference_in_float32(impl: str, name: str) -> None:
    if impl == "triton":
        pytest.importorskip("triton")
    out = experts(*route(LAYERS[name], torch.bfloat16, "cuda"), impl=impl)
    right = experts(*route(LAYERS[name], torch.float32, "cuda"), impl="reference")
    torch.testing.assert_close(out.float(), right, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_triton_in_other_dtypes(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    layer = LAYERS["one expert"]
    out = experts(*route(layer, dtype, "cuda"), impl="triton")
    right = experts(*route(layer, torch.float32, "cuda"), impl="reference")
    tolerance = 1e-4 if dtype == torch.float32 else 5e-3
    torch.testing.assert_close(out.float(), right, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("impl", ["triton", "grouped"])
def test_a_captured_graph_replays_another_routing(impl: str) -> None:
    if impl == "triton":
        pytest.importorskip("triton")
    first = route(LAYERS["decode"], torch.bfloat16, "cuda")
    other = route(LAYERS["decode"]._replace(seed=1), torch.bfloat16, "cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        experts(*first, impl=impl)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            out = experts(*first, impl=impl)
        for buffer, values in zip(first, other, strict=True):
            buffer.copy_(values)
        graph.replay()
    torch.cuda.synchronize()
    right = experts(*other, impl="reference")
    torch.testing.assert_close(out, right, atol=3e-2, rtol=3e-2)
