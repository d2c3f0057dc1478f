"""All backends on CUDA, in half precision and in float32, eagerly and out of a captured graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from runtime.attention.base import sequences
from runtime.attention.choose import AttentionChoiceError, choose
from tests.runtime.attention.ragged import LAYERS, Shape, answer, assert_right, make_step

if TYPE_CHECKING:
    from runtime.attention.base import AttentionBackend
    from tests.runtime.attention.ragged import Step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]

EXTEND = ((0, 300), (512, 77), (33, 2))
DECODE = ((0, 1), (1023, 1), (4000, 1), (17, 1), (511, 1))
BATCHES = {"extend": EXTEND, "decode": DECODE, "mixed": EXTEND + DECODE}
NAMES = ("flashinfer", "triton", "torch")


def build(name: str, step: Step) -> AttentionBackend:
    shape = step.shape
    try:
        choice = choose(name, "cuda", shape.head_dim, shape.dtype, shape.page_size)
    except AttentionChoiceError as error:
        pytest.skip(str(error))
    return choice.build(step.cache, shape.kv_heads * shape.group)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("page_size", [1, 16])
def test_every_backend_is_attention(
    name: str, dtype: torch.dtype, batch: str, page_size: int
) -> None:
    shape = Shape(BATCHES[batch], page_size, kv_heads=2, group=4, head_dim=128, dtype=dtype)
    step = make_step(shape, "cuda", poison_tails=name != "flashinfer")
    assert_right(answer(build(name, step), step), step)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("head_dim", "kv_heads", "group"),
    [(64, 3, 3), (80, 2, 1), (96, 1, 5), (128, 1, 16), (256, 1, 2)],
)
def test_every_shape_of_head(name: str, head_dim: int, kv_heads: int, group: int) -> None:
    shape = Shape(BATCHES["mixed"], 16, kv_heads, group, head_dim=head_dim, dtype=torch.bfloat16)
    step = make_step(shape, "cuda", poison_tails=name != "flashinfer")
    assert_right(answer(build(name, step), step), step)


@pytest.mark.parametrize("name", NAMES)
def test_a_captured_graph_replays_other_steps_with_padding(name: str) -> None:
    """Capture with padding only; replay a step of five in a graph of eight."""
    room, pages = 8, 256
    shape = Shape(DECODE, 16, kv_heads=2, group=4, head_dim=128, dtype=torch.bfloat16)
    step = make_step(shape, "cuda", poison_tails=name != "flashinfer")
    backend = build(name, step).for_graph(room, pages)
    padding = room - len(DECODE)
    inputs = [
        [torch.zeros((room, *one.shape[1:]), dtype=one.dtype, device="cuda") for one in three]
        for three in zip(step.q, step.k, step.v, strict=True)
    ]

    def forward() -> list[torch.Tensor]:
        return [backend.attend(layer, *inputs[layer]) for layer in range(LAYERS)]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        backend.plan(sequences([1] * room, [1] * room, [[0]] * room, 16, "cuda"))
        forward()  # kernels compile outside the capture
        graph = torch.cuda.CUDAGraph()
        backend.plan(sequences([1] * room, [1] * room, [[0]] * room, 16, "cuda"))
        with torch.cuda.graph(graph, stream=stream):
            outputs = forward()
        table = [*step.seqs.page_table.tolist(), *[[0]] * padding]
        kv_lens = [*step.seqs.kv_lens.tolist(), *[1] * padding]
        backend.plan(sequences([1] * room, kv_lens, table, 16, "cuda"))
        for layer, three in enumerate(zip(step.q, step.k, step.v, strict=True)):
            for buffer, real in zip(inputs[layer], three, strict=True):
                buffer[: len(DECODE)].copy_(real)
        graph.replay()
    torch.cuda.synchronize()
    assert_right([out[: len(DECODE)] for out in outputs], step)


@pytest.mark.parametrize("name", NAMES)
def test_plans_made_ahead_of_the_device_do_not_mix(name: str) -> None:
    """Plan and launch many steps without waiting, behind a device that is busy."""
    shape = Shape(DECODE, 16, kv_heads=2, group=4, head_dim=128, dtype=torch.bfloat16)
    steps = [make_step(shape, "cuda", poison_tails=name != "flashinfer")]
    backend = build(name, steps[0])
    table, q, k, v = steps[0].seqs.page_table.tolist(), steps[0].q, steps[0].k, steps[0].v
    busy = torch.randn((8192, 8192), device="cuda", dtype=torch.bfloat16)
    outputs = []
    for _ in range(5):
        for row in range(len(DECODE)):
            busy = (busy @ busy).clamp_(-1, 1)
            alone = sequences([1], [DECODE[row][0] + 1], [table[row]], 16, "cuda")
            backend.plan(alone)
            at = slice(row, row + 1)
            outputs.append((row, backend.attend(0, q[0][at], k[0][at], v[0][at])))
    torch.cuda.synchronize()
    for row, out in outputs:
        right = steps[0].answers[0][row : row + 1]
        torch.testing.assert_close(out.double().cpu(), right, atol=1.6e-2, rtol=1.6e-2)
