"""Writing for other tools: what a format holds comes back, what it cannot hold is never silent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import (
    BlockTokens,
    ExplicitTokens,
    SyntheticTokens,
    Tokens,
    TraceRequest,
    Workload,
    read_trace,
)
from traces.tokens import JoinedTokens
from traces.writers.losses import LossError
from traces.writers.write import WRITERS, write_trace

if TYPE_CHECKING:
    from pathlib import Path


@st.composite
def workloads(draw: st.DrawFn, *, deltas: bool, hashed: bool) -> Workload:
    """Chains of turns and lone requests, as Mooncake (whole prompts) or AIPerf (deltas) has them."""
    requests: list[TraceRequest] = []
    last: dict[str, TraceRequest] = {}
    arrival = 0
    for number in range(draw(st.integers(1, 10))):
        session = draw(st.sampled_from(["a", "b", None]))
        before = last.get(session) if session is not None else None
        length = draw(st.integers(1, 1_500))
        ids = draw(st.lists(st.integers(0, 2**40), min_size=3, max_size=3))
        prompt: Tokens = BlockTokens(np.array(ids[: -(-length // 512)]), 512, length)
        if not hashed and draw(st.booleans()):
            prompt = SyntheticTokens(2 * number, length)
        if before is not None and deltas:
            prompt = JoinedTokens([before.prompt, before.output, prompt])
        # the first stands at 0, from which readers count where stamps may be absolute
        arrival += draw(st.integers(0, 2**40)) if number else 0
        request = TraceRequest(
            id=f"r{number:06d}",
            arrival_ns=arrival,
            prompt=prompt,
            output=SyntheticTokens(number, draw(st.integers(1, 99))),
            session=session,
            depends_on=() if before is None else (before.id,),
            delay_ns=0 if before is None else draw(st.integers(0, 2**40)),
            turn=None if session is None else 0 if before is None else (before.turn or 0) + 1,
        )
        requests.append(request)
        if session is not None:
            last[session] = request
    return Workload("w", requests)


@settings(deadline=None)
@given(workload=workloads(deltas=False, hashed=True))
def test_mooncake_gives_back_times_lengths_hashes_and_turns(tmp_path_factory, workload):
    path = tmp_path_factory.getbasetemp() / "trace.mooncake.jsonl"
    assert write_trace(workload, path, "mooncake") == {}
    again = read_trace(path, format="mooncake", mooncake_arrivals="keep")
    assert again.requests == workload.requests


@settings(deadline=None)
@given(workload=workloads(deltas=True, hashed=False))
def test_aiperf_gives_back_times_lengths_hashes_and_what_turns_add(tmp_path_factory, workload):
    path = tmp_path_factory.getbasetemp() / "trace.aiperf.jsonl"
    assert write_trace(workload, path, "aiperf") == {}
    again = read_trace(path, format="aiperf").requests
    assert len(again) == len(workload)
    for one, other in zip(again, workload, strict=True):
        assert (one.arrival_ns, one.session, one.turn) == (
            other.arrival_ns,
            other.session,
            other.turn,
        )
        assert (one.depends_on, one.delay_ns) == (other.depends_on, other.delay_ns)
        assert (len(one.prompt), len(one.output)) == (len(other.prompt), len(other.output))
        assert _hashes(one.prompt) == _hashes(other.prompt)


def _hashes(tokens: Tokens) -> list[list[int]]:
    parts = tokens.parts if isinstance(tokens, JoinedTokens) else (tokens,)
    return [part.hash_ids.tolist() for part in parts if isinstance(part, BlockTokens)]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=2, max_size=6))
def test_prompts_without_hashes_share_the_blocks_that_they_have_in_common(tmp_path_factory, drawn):
    prompts = [ExplicitTokens(np.repeat([1, *blocks], 4)) for blocks in drawn]
    output = SyntheticTokens(0, 1)
    requests = [TraceRequest(f"r{i}", 0, prompt, output) for i, prompt in enumerate(prompts)]
    path = tmp_path_factory.getbasetemp() / "blocks.jsonl"
    lost = write_trace(Workload("w", requests), path, "mooncake", lossy=True, block_size=4)
    assert lost == {"what prompts hold within blocks of 4": len(prompts)}
    again = read_trace(path, block_size=4, mooncake_arrivals="keep").requests
    for one, first in zip(again, prompts, strict=True):
        for other, second in zip(again, prompts, strict=True):
            expected = _common(first.array(), second.array())
            assert _common(one.prompt.array(), other.prompt.array()) == expected


def _common(one: np.ndarray, other: np.ndarray) -> int:
    length = min(len(one), len(other))
    same = one[:length] == other[:length]
    return length if same.all() else int(np.argmin(same))


PLAIN = TraceRequest("r000000", 0, BlockTokens(np.array([1]), 512, 9), SyntheticTokens(0, 3))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"priority": 3}, "priority"),
        ({"tenant": "t"}, "tenant"),
        ({"extra_key": "k"}, "extra_key"),
        ({"lora_id": "l"}, "lora_id"),
        ({"sampling": {"temperature": 1}}, "sampling"),
        ({"abort_ns": 5}, "abort_ns"),
        ({"max_new_tokens": 7}, "max_new_tokens other than the output"),
        ({"ignore_eos": False}, "ignore_eos: false"),
        ({"output": ExplicitTokens([1, 2])}, "token ids of the output"),
        ({"prompt": ExplicitTokens([1, 2])}, "what prompts hold within blocks of 512"),
        ({"session": "s", "turn": 4}, "what requests of a session wait for"),
    ],
)
@pytest.mark.parametrize("form", ["mooncake", "aiperf"])
def test_a_loss_is_an_error_or_a_report(tmp_path, form, changes, what):
    if "output" in changes:
        changes = {**changes, "max_new_tokens": 2}
    workload = Workload("w", [replace(PLAIN, **changes)])
    path = tmp_path / "out.jsonl"
    with pytest.raises(LossError, match="cannot hold") as caught:
        write_trace(workload, path, form)
    assert caught.value.losses == {what: 1}
    assert list(tmp_path.iterdir()) == []  # nothing half-written
    assert write_trace(workload, path, form, lossy=True) == {what: 1}
    assert len(read_trace(path)) == 1


def test_subagents_and_joins_are_a_loss(tmp_path):
    fields = {"session": "s"}
    requests = [
        replace(PLAIN, id="a", turn=0, **fields),
        replace(PLAIN, id="b", spawned_by="a", **fields),
        replace(PLAIN, id="c", depends_on=("a", "b"), **fields),
    ]
    lost = write_trace(Workload("w", requests), tmp_path / "t", "mooncake", lossy=True)
    assert lost == {"what requests of a session wait for": 3}
    assert not read_trace(tmp_path / "t").closed


def test_aiperf_begins_a_session_where_a_prompt_is_no_longer_than_before(tmp_path):
    def turn(name: str, number: int, length: int) -> TraceRequest:
        hashes = np.arange(-(-length // 512))
        waits = () if number == 0 else (f"r{number - 1}",)
        return replace(
            PLAIN,
            id=name,
            prompt=BlockTokens(hashes, 512, length),
            session="s",
            turn=number,
            depends_on=waits,
        )

    requests = [turn("r0", 0, 600), turn("r1", 1, 900), turn("r2", 2, 100), turn("r3", 3, 400)]
    path = tmp_path / "t.jsonl"
    lost = write_trace(Workload("w", requests), path, "aiperf", lossy=True)
    assert lost == {
        "prompts that are not all that was said before and something new": 2,
        "waits of prompts that are no longer than what was said before": 1,
    }
    again = read_trace(path).requests
    assert [len(r.prompt) for r in again] == [600, 900, 100, 400]
    assert [r.session for r in again] == ["s", "s", "s~1", "s~1"]
    assert again[2].depends_on == ()


def test_rows_are_those_that_other_tools_read(tmp_path):
    path = tmp_path / "t.jsonl"
    write_trace(Workload("w", [replace(PLAIN, arrival_ns=1_500_000)]), path, "mooncake")
    assert json.loads(path.read_text()) == {
        "timestamp": 1.5,
        "input_length": 9,
        "output_length": 3,
        "hash_ids": [1],
    }


def test_unknown_formats_and_block_sizes_are_refused(tmp_path):
    workload = Workload("w", [PLAIN])
    with pytest.raises(ValueError, match="known: native, mooncake, aiperf"):
        write_trace(workload, tmp_path / "t", "csv")
    with pytest.raises(ValueError, match="at least 1 token"):
        write_trace(workload, tmp_path / "t", "mooncake", block_size=0)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_the_same_workload_gives_the_same_bytes(tmp_path: Path, form: str, suffix: str):
    workload = Workload("w", [PLAIN])
    contents = []
    for name in ("one", "two"):
        write_trace(workload, tmp_path / f"{name}{suffix}", form)
        contents.append((tmp_path / f"{name}{suffix}").read_bytes())
    assert contents[0] == contents[1]
    assert read_trace(tmp_path / f"one{suffix}").requests == workload.requests
