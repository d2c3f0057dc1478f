"""A step's inputs: every array says what it should, whichever way the scheduler keeps its pages."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies import Inbox, PolicyConfig, Request, StepResult, TokenLog
from policies.batch import Batch, Mode
from runtime.graphs import bucket_sizes
from runtime.inputs import ALIGN, HostStep
from runtime.pages import BlockPages
from runtime.planner import Planner
from tests.runtime.engine.fakes import Bench
from tests.runtime.engine.test_runtime_world import FAMILIES, check, policy, workload


def allocate(size: int) -> torch.Tensor:
    return torch.full((size,), 0xAB, dtype=torch.uint8)


def plan_steps(family: str, steps: int, *, page: int = 4, padded: Any = None) -> list[Any]:
    """The first batches of three requests with prompts of 5, 9 and 3 tokens, with their inputs."""
    scheduler, builder = Planner(policy(family, page_size=page), 96, 96, allocate, padded)()
    prompts = [list(range(10, 15)), list(range(20, 29)), list(range(30, 33))]
    requests = [Request(f"r{i}", TokenLog(p), 9) for i, p in enumerate(prompts)]
    scheduler.receive(Inbox(0, requests))
    seen = []
    for _ in range(steps):
        batch = scheduler.next_batch()
        assert batch is not None
        host = builder.build(batch)
        seen.append((batch, host, host.on(host.buffer)))
        for item in batch.prefill:
            if item.samples:
                log: Any = item.request.tokens
                log.write(item.seq_len - log.prompt_len, 77)
        if batch.decode is not None:
            lens = batch.decode.seq_lens().tolist()
            for request, length in zip(batch.decode.requests, lens, strict=True):
                log = request.tokens
                log.write(length - log.prompt_len, 77)
        scheduler.commit(batch, StepResult())
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_then_decodes(family: str) -> None:
    (batch, _, first), (_, _, second) = plan_steps(family, 2, page=1)
    assert batch.mode is Mode.EXTEND
    assert first.tokens.tolist() == [*range(10, 15), *range(20, 29), 30, 31]
    assert first.positions.tolist() == [*range(5), *range(9), 0, 1]
    assert first.seqs.qo_indptr.tolist() == [0, 5, 14, 16]
    assert first.seqs.kv_lens.tolist() == [5, 9, 2]
    assert not first.seqs.decode_only
    assert first.sample_at.tolist() == [4, 13], "the third prompt is not computed to its end"
    assert first.sample_positions.tolist() == [5, 9]
    assert first.sample_rows.tolist() == first.host_rows.tolist() == [1, 2]
    table = first.seqs.page_table.tolist()
    places = [(0, p) for p in range(5)] + [(1, p) for p in range(9)] + [(2, p) for p in range(2)]
    assert first.seqs.slots.tolist() == [table[i][p] for i, p in places]
    assert sorted(first.seqs.slots.tolist()) == list(range(1, 17)), "each page once, never page 0"
    tokens = second.tokens.tolist()
    assert tokens.count(32) == 1, "the rest of the third prompt"
    if family in {"mixed", "decode-first"}:
        assert sorted(tokens) == [-2, -1, 32], "rows whose last token the device knows"
        assert second.seqs.decode_only
        assert len(second.sample_at) == 3


def test_arrays_begin_where_kernels_like_it() -> None:
    for n, tokens, samples, width in ((1, 1, 1, 1), (3, 17, 2, 5), (7, 7, 7, 3)):
        step = HostStep(n, tokens, samples, width, allocate)
        there = step.on(step.buffer.clone())
        whole = [there.tokens, there.positions, there.sample_at, there.sample_rows]
        whole += [there.sample_positions, there.seqs.slots, there.seqs.qo_indptr_dev]
        whole += [there.seqs.kv_lens_dev, there.seqs.page_table_dev]
        base = min(tensor.data_ptr() for tensor in whole)
        assert all((tensor.data_ptr() - base) % ALIGN == 0 for tensor in whole)
        spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in whole)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans)), "no overlap"
        assert there.seqs.page_table_dev.shape == (n, width)
        assert there.seqs.qo_indptr.data_ptr() == step.qo_indptr.ctypes.data
        assert there.seqs.qo_indptr_dev.data_ptr() != there.seqs.qo_indptr.data_ptr()


def test_a_decode_batch_is_filled_up_with_padding() -> None:
    *_, (batch, host, step) = plan_steps("prefill-first", 4, padded=lambda _: 8)
    assert batch.mode is Mode.DECODE
    n = len(batch.decode)
    assert n == 3
    assert step.seqs.count == 8
    assert step.seqs.decode_only
    assert step.seqs.qo_indptr.tolist() == list(range(9))
    assert step.seqs.kv_lens.tolist()[n:] == [1] * 5
    assert step.seqs.page_table[n:].abs().sum() == 0
    assert step.seqs.slots.tolist()[n:] == [0] * 5
    assert step.tokens.tolist()[n:] == step.positions.tolist()[n:] == [0] * 5
    assert step.sample_at.tolist() == [0, 1, 2], "padding does not sample"
    assert len(host.rows) == len(host.starts) == n


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_do_not_depend_on_padding(family: str) -> None:
    sizes = bucket_sizes(6)
    bench = Bench(
        policy(family, page_size=4), 160, padded=lambda n: next(s for s in sizes if s >= n)
    )
    jobs = workload(bench, 1)
    bench.run()
    check(jobs)


def test_sizes_of_graphs() -> None:
    assert bucket_sizes(1) == (1,)
    assert bucket_sizes(3) == (1, 2, 3)
    assert bucket_sizes(8) == (1, 2, 4, 8)
    assert bucket_sizes(20) == (1, 2, 4, 8, 16, 20)


class _Blocks(SimpleNamespace):
    """A request as far as its blocks go; two are the same only if they are one."""

    __hash__ = object.__hash__


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["grow", "start"])), max_size=40))
def test_block_tables_follow_requests(moves: list[tuple[int, str]]) -> None:
    """Rows are handed from request to request, whose lists grow in between."""
    size, counter = 2, iter(range(1, 1000))
    pages = BlockPages(4, size, 64)
    held: dict[int, Any] = {}
    for row, move in moves:
        if move == "start" or row not in held:
            held[row] = _Blocks(blocks=[next(counter)])
        else:
            held[row].blocks += [next(counter)]
        if len(held[row].blocks) > 20:
            continue
        rows = np.array(sorted(held), dtype=np.int64)
        kv_lens = np.array([len(held[r].blocks) * size for r in sorted(held)], dtype=np.int64)
        items: Any = tuple(SimpleNamespace(row=r, request=held[r]) for r in sorted(held))
        table = np.full((len(rows), int(kv_lens.max()) // size), -1, dtype=np.int32)
        pages.fill(table, Batch(1, Mode.EXTEND, items), rows, kv_lens)
        for at, r in enumerate(sorted(held)):
            own = held[r].blocks
            assert table[at].tolist() == own + [0] * (table.shape[1] - len(own))


def test_a_token_that_is_not_known_is_no_prompt() -> None:
    """Prompts are computed from ids that the host knows; what is in flight is decoded."""
    scheduler, builder = Planner(
        PolicyConfig(chunked_prefill_size=8, max_running_requests=2), 64, 64, allocate
    )()
    request = Request("a", TokenLog([1, 2, 3]), 4)
    scheduler.receive(Inbox(0, [request]))
    batch = scheduler.next_batch()
    assert batch is not None
    request._output_len = -1  # as if less were known than is to be computed
    with pytest.raises(AssertionError, match="not known"):
        builder.build(batch)
