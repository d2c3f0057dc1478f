"""The native format loses nothing, and a file is there whole or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import (
    BlockTokens,
    ExplicitTokens,
    SyntheticTokens,
    TraceRequest,
    Workload,
    read_trace,
    write_native,
)
from traces.generate import generate

vocabularies = st.sampled_from([100_000, 64, 2**31 - 1])
names = st.none() | st.text(max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)  # fmt: skip
objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)


@st.composite
def block_tokens(draw):
    length, block_size = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    blocks = -(-length // block_size)
    ids = draw(st.lists(st.integers(0, 2**63 - 1), min_size=blocks, max_size=blocks))
    return BlockTokens(np.array(ids), block_size, length, draw(vocabularies))


tokens = (
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9).map(ExplicitTokens)
    | st.builds(SyntheticTokens, st.integers(0, 2**63 - 1), st.integers(1, 99), vocabularies)
    | block_tokens()
)


@st.composite
def workloads(draw):
    arrivals = sorted(draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=4)))
    ids = draw(
        st.lists(st.text(min_size=1), unique=True, min_size=len(arrivals), max_size=len(arrivals))
    )
    requests = [
        TraceRequest(
            id=name,
            arrival_ns=arrival,
            prompt=draw(tokens),
            output=draw(tokens),
            max_new_tokens=draw(st.integers(1, 2**31 - 1)),
            ignore_eos=draw(st.booleans()),
            priority=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
            tenant=draw(names),
            session=draw(names),
            extra_key=draw(names),
            routing_key=draw(names),
            lora_id=draw(names),
            sampling=draw(st.none() | objects),
            abort_ns=draw(st.none() | st.integers(arrival, 2**63 - 1)),
        )
        for name, arrival in zip(ids, arrivals, strict=True)
    ]
    return Workload(draw(st.text(max_size=5)), requests, draw(objects))


@settings(max_examples=150, deadline=None)
@given(workloads(), st.sampled_from(["w.jsonl", "w.jsonl.gz"]))
def test_a_workload_comes_back_as_it_was(tmp_path_factory, workload, file_name):
    path = tmp_path_factory.mktemp("native") / file_name
    write_native(workload, path)
    back = read_trace(path)
    assert back.name == workload.name
    assert back.requests == workload.requests
    assert back.meta["origin"] == workload.meta
    for before, after in zip(workload, back, strict=True):
        assert np.array_equal(before.prompt.array(), after.prompt.array())
    assert list(path.parent.iterdir()) == [path]


def test_the_same_workload_gives_the_same_bytes(tmp_path):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_native(generate(n=50), tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_prompts_stay_compact(tmp_path):
    path = tmp_path / "w.jsonl"
    write_native(generate(n=20), path)
    header, *rows = map(json.loads, path.read_text().splitlines())
    assert (header["schema"], header["version"]) == ("schedtwin.trace", 1)
    assert all(set(row["prompt"]) == {"hash_ids", "block_size", "length"} for row in rows)
    assert "ignore_eos" not in rows[0]


def test_limit_reads_the_first_requests(tmp_path):
    workload = generate(n=20)
    write_native(workload, tmp_path / "w.jsonl")
    limited = read_trace(tmp_path / "w.jsonl", limit=7)
    assert limited.requests == workload.requests[:7]
    assert limited.meta["sha256"] is None


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "w.jsonl"
    write_native(generate(n=3), path)
    before = path.read_bytes()
    good = generate(n=1).requests[0]
    for meta in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(ValueError, match="meta cannot be written as JSON"):
            write_native(Workload("w", [good], meta), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_how_many_sessions_are_under_way_at_once_survives(tmp_path):
    tokens = SyntheticTokens(1, 4)
    work = Workload("agents", [TraceRequest("a", 0, tokens, tokens)], {"concurrency": 50})
    for _ in range(2):  # through repeated conversions too
        write_native(work, tmp_path / "agents.jsonl")
        work = read_trace(tmp_path / "agents.jsonl")
        assert work.meta["concurrency"] == 50
