"""The torch backend, and the readable reference, are attention, whatever the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.attention import torch_backend
from runtime.attention.base import Sequences, sequences
from runtime.attention.reference import ReferenceAttention
from runtime.attention.torch_backend import TorchAttention, similar_lengths
from tests.runtime.attention.ragged import LAYERS, Shape, answer, assert_right, make_step, shapes

BACKENDS = [ReferenceAttention, TorchAttention]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("backend", BACKENDS)
@given(shape=shapes())
@settings(max_examples=60, deadline=None)
def test_extend_decode_and_mixed_batches(backend: type[TorchAttention], shape: Shape) -> None:
    step = make_step(shape)
    assert_right(answer(backend(step.cache, shape.kv_heads * shape.group), step), step)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_every_dtype_and_page_size(
    backend: type[TorchAttention], dtype: torch.dtype, page_size: int
) -> None:
    lengths = ((30, 1), (0, 40), (7, 9), (0, 1), (99, 1), (48, 16))
    step = make_step(Shape(lengths, page_size, group=3, head_dim=64, dtype=dtype))
    assert_right(answer(backend(step.cache, 6), step), step)


@given(shape=shapes(decode_only=True))
@settings(max_examples=60, deadline=None)
def test_skewed_decode_batches_in_blocks_of_similar_length(shape: Shape) -> None:
    before = torch_backend.PADDING_TOKENS
    torch_backend.PADDING_TOKENS = 8
    try:
        step = make_step(shape)
        assert_right(answer(TorchAttention(step.cache, shape.kv_heads * shape.group), step), step)
    finally:
        torch_backend.PADDING_TOKENS = before


def test_long_prompts_go_in_query_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_backend, "QUERY_BLOCK", 8)
    step = make_step(Shape(((0, 30), (13, 20), (5, 1), (0, 8))))
    assert_right(answer(TorchAttention(step.cache, 4), step), step)


@given(shape=shapes(decode_only=True), spare=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_fixed_buffers_decode_the_same(shape: Shape, spare: int) -> None:
    step = make_step(shape)
    backend = TorchAttention(step.cache, shape.kv_heads * shape.group)
    fixed = backend.for_graph(step.seqs.count, step.seqs.page_table.shape[1] + spare)
    assert_right(answer(fixed, step), step)


def test_a_row_alone_and_in_a_batch_differ_by_rounding_only() -> None:
    lengths = tuple((17 * i % 200, 1) for i in range(12))
    step = make_step(Shape(lengths, page_size=16, group=3, head_dim=64))
    backend = TorchAttention(step.cache, 6)
    together = answer(backend, step)[0]
    for i, (prefix, _) in enumerate(lengths):
        pages = step.seqs.page_table[i].tolist()
        backend.plan(sequences([1], [prefix + 1], [pages], 16))
        row = slice(i, i + 1)
        alone = backend.attend(0, step.q[0][row], step.k[0][row], step.v[0][row])
        torch.testing.assert_close(alone, together[row], atol=2e-6, rtol=2e-6)


def test_steps_that_follow_one_another_read_what_was_written() -> None:
    whole = make_step(Shape(((0, 24), (0, 24)), page_size=4))
    pages = whole.seqs.page_table.tolist()
    backend = TorchAttention(whole.cache, 4)
    for start, stop in ((0, 10), (10, 11), (11, 20), (20, 21), (21, 24)):
        rows = torch.cat([torch.arange(start, stop), torch.arange(24 + start, 24 + stop)])
        backend.plan(sequences([stop - start] * 2, [stop] * 2, pages, 4))
        out = backend.attend(0, whole.q[0][rows], whole.k[0][rows], whole.v[0][rows])
        right = whole.answers[0][rows]
        torch.testing.assert_close(out.double(), right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [((9, 1), (3, 4), (0, 6)), ((9, 1), (3, 1))])
def test_views_into_one_projection_will_do(lengths: tuple[tuple[int, int], ...]) -> None:
    step = make_step(Shape(lengths))
    joined = [torch.cat(three, dim=1) for three in zip(step.q, step.k, step.v, strict=True)]
    q, k, v = zip(*(one.split((4, 2, 2), dim=1) for one in joined), strict=True)
    assert not q[0].is_contiguous()
    views = replace(step, q=list(q), k=list(k), v=list(v))
    assert_right(answer(TorchAttention(step.cache, 4), views), views)


def test_padding_rows_of_a_graph_leave_the_others_alone() -> None:
    step = make_step(Shape(((9, 1), (3, 1), (0, 1)), page_size=4))
    table = [*step.seqs.page_table.tolist(), [0], [0]]
    padded = sequences([1] * 5, [10, 4, 1, 1, 1], table, 4)
    fixed = TorchAttention(step.cache, 4).for_graph(5, 3)
    fixed.plan(padded)
    for layer in range(LAYERS):
        q, k, v = (
            torch.cat([three[layer], three[layer][:2]]) for three in (step.q, step.k, step.v)
        )
        out = fixed.attend(layer, q, k, v)
        torch.testing.assert_close(out[:3].double(), step.answers[layer], atol=1e-5, rtol=1e-5)


def test_a_scale_of_ones_own() -> None:
    step = make_step(Shape(((9, 1), (3, 4))))
    scaled = [q * 0.5 for q in step.q]
    default = answer(TorchAttention(step.cache, 4), step)
    halved = TorchAttention(step.cache, 4, scale=2 * step.shape.head_dim**-0.5)
    halved.plan(step.seqs)
    for layer, q in enumerate(scaled):
        out = halved.attend(layer, q, step.k[layer], step.v[layer])
        torch.testing.assert_close(out, default[layer], atol=1e-5, rtol=1e-5)


@given(lengths=st.lists(st.integers(1, 5000), max_size=30), limit=st.sampled_from((1, 4000, 10**6)))
def test_blocks_waste_little_and_miss_nobody(lengths: list[int], limit: int) -> None:
    groups = similar_lengths(lengths, limit)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert sum(longest - lengths[i] for i in group) <= torch_backend.PADDING_TOKENS
        assert len(group) == 1 or len(group) * longest <= limit


def test_similar_lengths_stay_in_one_block_in_order() -> None:
    assert similar_lengths([500, 510, 505], 10**6) == [[0, 1, 2]]
    assert similar_lengths([10, 5000, 12], 10**6) == [[1], [0, 2]]


@pytest.mark.parametrize("seqs", ["another count", "not decoding", "too many pages"])
def test_a_step_that_a_graph_was_not_made_for_is_refused(seqs: str) -> None:
    steps: dict[str, tuple[Sequences, str]] = {
        "another count": (sequences([1], [3], [[1]], 4), "decodes 2 sequences.*has 1"),
        "not decoding": (sequences([2, 1], [3, 3], [[1], [2]], 4), "one new token.*3 new tokens"),
        "too many pages": (sequences([1, 1], [9, 3], [[1, 2, 3], [4]], 4), "takes 2 pages.*has 3"),
    }
    step, message = steps[seqs]
    cache = make_step(Shape(((0, 1),))).cache
    with pytest.raises(ValueError, match=message):
        TorchAttention(cache, 4).for_graph(2, 2).plan(step)


def test_heads_that_cannot_be_shared_out_are_refused() -> None:
    cache = make_step(Shape(((0, 1),))).cache
    with pytest.raises(ValueError, match="5 query heads cannot share 2 KV heads"):
        TorchAttention(cache, 5)
