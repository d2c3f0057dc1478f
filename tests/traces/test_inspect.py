"""What `inspect` says of a workload is what a plain count over its tokens says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import BlockTokens, ExplicitTokens, SyntheticTokens, TraceRequest, Workload, read_trace
from traces.inspect import inspect
from traces.prefixes import own_block_size, prompt_blocks
from traces.reuse import reuse
from traces.tokens import JoinedTokens

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
MOONCAKE = SHARED / "mooncake" / "conversation_trace.jsonl.gz"
AZURE = SHARED / "azure2023" / "AzureLLMInferenceTrace_conv.csv.gz"


def workload(prompts, arrivals=None, **fields) -> Workload:
    arrivals = arrivals or [0] * len(prompts)
    return Workload(
        "w",
        [
            TraceRequest(f"r{i}", at, prompt, SyntheticTokens(i, 1 + i % 3), **fields)
            for i, (prompt, at) in enumerate(zip(prompts, arrivals, strict=True))
        ],
    )


short_ids = st.lists(st.integers(0, 1), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(short_ids, min_size=1, max_size=8), st.integers(1, 5))
def test_blocks_are_equal_where_the_prefixes_are(prompts, block_size):
    requests = workload([ExplicitTokens(ids) for ids in prompts]).requests
    found = [*prompt_blocks(requests, block_size)]
    for first, blocks in zip(prompts, found, strict=True):
        assert len(blocks) == -(-len(first) // block_size)
        for second, others in zip(prompts, found, strict=True):
            for depth, (one, other) in enumerate(zip(blocks, others, strict=False), start=1):
                same = first[: depth * block_size] == second[: depth * block_size]
                assert (one == other) == same


@settings(deadline=None)
@given(st.lists(short_ids, min_size=1, max_size=8))
def test_hashes_and_the_tokens_they_stand_for_share_alike(prompts):
    hashed = workload([BlockTokens(np.array(ids), 4, 4 * len(ids)) for ids in prompts])
    explicit = workload([ExplicitTokens(r.prompt.array()) for r in hashed])
    assert inspect(hashed, block_size=4) == inspect(explicit, block_size=4)


part = st.one_of(
    st.builds(SyntheticTokens, st.integers(0, 2), st.integers(0, 9)),
    st.builds(ExplicitTokens, short_ids),
    st.lists(st.integers(0, 1), min_size=1, max_size=4).map(
        lambda ids: BlockTokens(np.array(ids), 3, 3 * len(ids) - len(ids) % 2)
    ),
)
joined = st.lists(part, min_size=1, max_size=4).map(JoinedTokens).filter(len)


@settings(deadline=None)
@given(
    st.lists(st.tuples(joined, st.sampled_from([None, "s", "t"])), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_what_prompts_are_held_as_changes_nothing(held, block_size):
    def request(i, prompt, session=None):
        return TraceRequest(f"r{i}", 0, prompt, SyntheticTokens(i, 1), session=session)

    sessions = [request(i, prompt, session) for i, (prompt, session) in enumerate(held)]
    plain = [request(i, ExplicitTokens(prompt.array())) for i, (prompt, _) in enumerate(held)]
    for one, other in zip(
        prompt_blocks(sessions, block_size), prompt_blocks(plain, block_size), strict=True
    ):
        assert one.tolist() == other.tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(short_ids, st.integers(0, 2)), min_size=1, max_size=8))
def test_full_hashes_and_what_is_left_over(prompts):
    def prompt(ids, rest):
        blocks = BlockTokens(np.array(ids), 3, 3 * len(ids))
        return JoinedTokens([blocks, SyntheticTokens(5, rest)])

    hashed = workload([prompt(*one) for one in prompts], session="s")
    plain = workload([ExplicitTokens(prompt(*one).array()) for one in prompts])
    assert own_block_size(hashed.requests) == 3
    assert inspect(hashed).endless_hit_ratio == inspect(plain, block_size=3).endless_hit_ratio


def test_namespaces_share_nothing():
    prompts = [ExplicitTokens([1, 2, 3, 4])] * 2
    shared = workload(prompts)
    apart = Workload("w", [*workload(prompts[:1], extra_key="a"), *shared.requests[1:]])
    assert inspect(shared, block_size=2).endless_hit_ratio == 0.5
    assert inspect(apart, block_size=2).endless_hit_ratio == 0


def plain_lru_hits(prompts: list[list[int]], capacity: int) -> list[int]:
    """The reference rule with a plain list, oldest first."""
    cache: list[int] = []
    found = []
    for blocks in prompts:
        hits = 0
        while hits < len(blocks) and blocks[hits] in cache:
            hits += 1
        found.append(hits)
        for block in reversed(blocks):
            if block in cache:
                cache.remove(block)
            cache.append(block)
        del cache[: max(0, len(cache) - capacity)]
    return found


@settings(deadline=None)
@given(st.lists(short_ids, min_size=1, max_size=20), st.integers(1, 10), st.integers(1, 3))
def test_lru_follows_the_plain_rule(prompts, capacity, block_size):
    requests = workload([ExplicitTokens(ids) for ids in prompts]).requests
    blocks = [*prompt_blocks(requests, block_size)]
    lengths = np.array([len(ids) for ids in prompts], dtype=np.int64)
    found = reuse(blocks, lengths, block_size)
    plain = plain_lru_hits([one.tolist() for one in blocks], capacity)
    assert found.hits(capacity).tolist() == plain
    tokens = sum(min(hits * block_size, len(ids)) for hits, ids in zip(plain, prompts, strict=True))
    assert found.hit_ratio(capacity) == tokens / lengths.sum()


def test_a_hand_counted_workload():
    prompts = [
        ExplicitTokens([1, 2, 3, 4, 5]),
        ExplicitTokens([1, 2, 3, 4, 5]),  # all 5, the partial block too
        ExplicitTokens([1, 2, 9, 9]),  # the first 2
        ExplicitTokens([7]),
    ]
    summary = inspect(workload(prompts, [0, 10**9, 2 * 10**9, 4 * 10**9]), block_size=2)
    assert summary.endless_hit_ratio == 7 / 15
    assert (summary.unique_blocks, summary.block_references) == (5, 9)
    assert summary.used_once == 2 / 5
    assert summary.with_hit == 2 / 4
    assert (summary.span_s, summary.rate_per_s) == (4.0, 1.0)
    assert summary.interarrival_cv == pytest.approx(np.std([1, 1, 2]) / (4 / 3))
    assert summary.dispersion[1] == pytest.approx(np.var([1, 1, 1, 0]) / 0.75)
    assert summary.dispersion[10] is None
    assert (summary.input.mean, summary.input.p50, summary.input.max) == (3.75, 4.5, 5)
    assert summary.output_tokens == 1 + 2 + 3 + 1


def test_one_request_is_enough_and_says_what_it_cannot():
    summary = inspect(workload([SyntheticTokens(0, 600)]))
    assert summary.rate_per_s is summary.interarrival_cv is summary.spearman_in_out is None
    assert dict(summary.table())["rate"] == "-"
    assert json.loads(json.dumps(summary.to_dict()))["lru_hit_ratio"]["1000"] == 0


def test_nothing_to_inspect_is_an_error():
    with pytest.raises(ValueError, match="no requests to inspect"):
        inspect(Workload("w", []))
    with pytest.raises(ValueError, match="block_size must be at least 1"):
        inspect(workload([SyntheticTokens(0, 6)]), block_size=0)


@pytest.mark.skipif(not MOONCAKE.exists(), reason="the Mooncake trace is not here")
def test_mooncake_conversation_holds_what_was_measured():
    summary = inspect(read_trace(MOONCAKE))
    assert round(summary.endless_hit_ratio, 4) == 0.3736
    assert [round(ratio, 3) for ratio in summary.lru_hit_ratio.values()] == [
        *(0.045, 0.067, 0.216, 0.332, 0.371)
    ]
    assert (summary.unique_blocks, summary.block_references) == (182_790, 288_500)
    assert round(summary.with_hit, 4) == 0.9999
    assert round(summary.spearman_in_out, 2) == 0.07
    assert [summary.input.p50, summary.input.max] == [6_909, 126_195]
    assert [summary.output.p50, summary.output.p90] == [350, 597]


@pytest.mark.skipif(not AZURE.exists(), reason="the Azure trace is not here")
def test_azure_conversation_holds_what_was_measured():
    summary = inspect(read_trace(AZURE))
    assert round(summary.rate_per_s, 2) == 5.53
    assert round(summary.interarrival_cv, 3) == 1.094
    assert [round(value, 1) for value in summary.dispersion.values()] == [1.4, 3.9, 16.1]
    assert summary.endless_hit_ratio == 0
