"""Triton attention in Triton's interpreter. Run by test_interpreter.py, in a process of its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.attention import triton_backend
from runtime.attention.choose import choose
from runtime.attention.triton_backend import TritonAttention
from runtime.kernels.paged_extend import extend_tiles
from tests.runtime.attention.ragged import Shape, answer, assert_right, make_step, shapes


@given(shape=shapes(most=20))
@settings(max_examples=20, deadline=None)
def test_extend_decode_and_mixed_batches(shape: Shape) -> None:
    step = make_step(shape)
    assert_right(answer(TritonAttention(step.cache, shape.kv_heads * shape.group), step), step)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_every_head_dim(head_dim: int) -> None:
    step = make_step(Shape(((70, 1), (3, 5)), page_size=16, head_dim=head_dim))
    assert_right(answer(TritonAttention(step.cache, 4), step), step)


def test_half_precision() -> None:
    step = make_step(Shape(((70, 1), (3, 5), (0, 9)), head_dim=32, dtype=torch.float16))
    assert_right(answer(TritonAttention(step.cache, 4), step), step)


@pytest.mark.parametrize("group", [1, 5, 16, 70])
def test_any_number_of_query_heads_a_kv_head(group: int) -> None:
    step = make_step(Shape(((20, 1), (3, 6)), kv_heads=1, group=group))
    assert_right(answer(TritonAttention(step.cache, group), step), step)


def test_long_kv_is_cut_into_parts_and_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_backend, "SHORTEST_PART", 64)
    # 64 keys a block: parts of 3 and of 2 blocks, a last part of one key, empty parts
    step = make_step(Shape(((320, 1), (128, 1), (0, 1)), page_size=16, kv_heads=1))
    assert_right(answer(TritonAttention(step.cache, 2), step), step)


def test_tiles_end_where_sequences_do() -> None:
    # 64 rows of 3 heads: tiles of 21 tokens
    step = make_step(Shape(((5, 21), (0, 22), (9, 43)), group=3, kv_heads=1))
    assert_right(answer(TritonAttention(step.cache, 3), step), step)


@given(shape=shapes(), tokens=st.sampled_from((1, 4, 16)))
@settings(deadline=None)
def test_tiles_cover_every_new_token_of_what_extends(shape: Shape, tokens: int) -> None:
    tiles = extend_tiles(make_step(shape).seqs, tokens).tolist()
    covered = {(s, t) for s, first in tiles for t in range(first, first + tokens)}
    assert len(tiles) * tokens == len(covered)
    for s, (_, new) in enumerate(shape.lengths):
        mine = {t for sequence, t in covered if sequence == s}
        assert mine == (set() if new == 1 else set(range(-(-new // tokens) * tokens)))
    keys = [shape.lengths[s][0] + first for s, first in tiles]
    assert keys == sorted(keys, reverse=True)


@given(shape=shapes(decode_only=True, most=20), spare=st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_fixed_buffers_decode_the_same(shape: Shape, spare: int) -> None:
    step = make_step(shape)
    backend = TritonAttention(step.cache, shape.kv_heads * shape.group)
    fixed = backend.for_graph(step.seqs.count, step.seqs.page_table.shape[1] + spare)
    assert_right(answer(fixed, step), step)


def test_it_can_be_asked_for_where_the_interpreter_runs() -> None:
    choice = choose("triton", "cpu", 64, torch.float32, 16)
    assert choice.name == "triton"
    assert choice.build is TritonAttention
