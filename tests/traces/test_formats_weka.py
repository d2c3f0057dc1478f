"""WEKA's agentic sessions: calls wait as the stamps show, subagents begin and are joined."""

from __future__ import annotations

import copy
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zstandard

from traces import BlockTokens, TraceError, TraceRequest, read_trace
from traces.sessions import by_session
from traces.tokens import JoinedTokens

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces" / "weka"
WEKA = SHARED / "weka_0001-0600.tar.zst"
needs_weka = pytest.mark.skipif(not WEKA.exists(), reason="the WEKA sessions are not here")
SECOND = 1_000_000_000


def call(t: float, tokens: int, hashes: list[int], **fields: object) -> dict[str, object]:
    return {
        "t": t,
        "type": "n",
        "model": "m",
        "in": tokens,
        "out": 10,
        "hash_ids": hashes,
        **fields,
    }


def agent(t: float, *calls: dict[str, object], **fields: object) -> dict[str, object]:
    return {"t": t, "type": "subagent", "agent_id": "a1", "requests": list(calls), **fields}


#: A call, two subagents side by side that are joined, one in the background, and a turn after that.
SESSION = {
    "id": "one",
    "models": ["m"],
    "block_size": 64,
    "hash_id_scope": "local",
    "requests": [
        call(0.0, 130, [1, 2], api_time=2.5, think_time=0.0),
        agent(
            13.0,
            call(0.0, 64, [9], api_time=1.0),
            call(4.0, 70, [9], api_time=5.0, think_time=3.0),
            duration_ms=10_000,
            status="completed",
        ),
        agent(23.0, call(0.0, 65, [8], api_time=19.0), duration_ms=20_000, agent_id="a2"),
        call(30.0, 200, [1, 2, 3], api_time=4.0, think_time=27.5),
        agent(36.0, call(0.0, 64, [7]), duration_ms=None, status="async_launched", agent_id="a3"),
        call(40.0, 200, [1, 2, 3], think_time=6.0),
        call(50.0, 20, []),
    ],
}


def write(folder: Path, *documents: object) -> Path:
    folder.mkdir(exist_ok=True)
    for number, document in enumerate(documents):
        (folder / f"trace_{number}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def calls(tmp_path: Path) -> dict[str, TraceRequest]:
    return {r.id: r for r in read_trace(write(tmp_path / "w", SESSION))}


def test_a_call_waits_for_the_one_before_it_and_the_clients_think_time(calls):
    last = calls["one/0006"]
    assert last.depends_on == ("one/0005",)
    assert last.delay_ns == 10 * SECOND  # not written, nor how long the answer took: the stamps
    turn = calls["one/0005"]
    assert (turn.depends_on, turn.delay_ns) == (("one/0003",), 6 * SECOND)


def test_a_subagent_that_completed_is_stamped_with_its_end(calls):
    first, second = calls["one/a1/0000"], calls["one/a1/0001"]
    assert first.depends_on == ("one/0000",)
    assert first.delay_ns == round(0.5 * SECOND)  # 13 s - 10 s, and the call before ended at 2.5 s
    assert first.arrival_ns == 3 * SECOND
    assert (second.depends_on, second.delay_ns) == ((first.id,), 3 * SECOND)
    assert second.arrival_ns == 7 * SECOND


def test_subagents_in_a_row_run_side_by_side_and_are_joined(calls):
    assert calls["one/a2/0000"].depends_on == ("one/0000",)
    join = calls["one/0003"]
    assert join.depends_on == ("one/0000", "one/a1/0001", "one/a2/0000")
    assert join.delay_ns == 8 * SECOND  # a2's call ended at 3 + 19 s


def test_nothing_waits_for_a_subagent_in_the_background(calls):
    background = calls["one/a3/0000"]
    assert (background.depends_on, background.delay_ns) == (("one/0003",), 2 * SECOND)
    assert not any(background.id in r.depends_on for r in calls.values())


def test_full_blocks_are_named_by_hashes_and_the_rest_is_nobody_elses(calls):
    first, join, again = calls["one/0000"], calls["one/0003"], calls["one/0005"]
    assert [len(r.prompt) for r in (first, join, again)] == [130, 200, 200]
    assert (first.prompt.array()[:128] == join.prompt.array()[:128]).all()
    same = join.prompt.array() == again.prompt.array()
    assert same[:192].all()
    assert not same[192:].all()
    assert len(calls["one/0006"].prompt) == 20


def test_hashes_name_blocks_within_their_document_only(tmp_path):
    other = {**copy.deepcopy(SESSION), "id": "two"}
    workload = read_trace(write(tmp_path / "w", SESSION, other))
    assert workload.meta["sessions"] == 2
    firsts = [r for r in workload if r.turn == 0]
    assert [r.session for r in firsts] == ["one", "two"]
    assert (firsts[0].prompt.array() != firsts[1].prompt.array()).any()
    assert {r.arrival_ns for r in firsts} == {0}


def test_calls_share_the_array_of_the_longest(calls):
    join, again = (calls[name].prompt.parts[0].hash_ids for name in ("one/0003", "one/0005"))
    assert np.shares_memory(join, again)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_alone_and_a_tar_hold_the_same(tmp_path, indent):
    text = json.dumps(SESSION, indent=indent)
    path = tmp_path / "session.json"
    path.write_text(text)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(path, "weka/trace_0001.json")
    archive = tmp_path / "weka.tar.zst"
    archive.write_bytes(zstandard.compress(packed.getvalue()))
    assert read_trace(path).requests == read_trace(archive).requests
    assert len(read_trace(archive)) == 8


def changed(place: int, **fields: object) -> dict[str, object]:
    session = copy.deepcopy(SESSION)
    requests = session["requests"]
    assert isinstance(requests, list)
    requests[place].update(fields)
    return session


BAD = {
    "hash count": (changed(0, hash_ids=[1]), "requests[0].hash_ids", "1 hashes for 130 tokens"),
    "rounded up": (changed(0, hash_ids=[1, 2, 3]), "requests[0].hash_ids", "one per full block"),
    "block size": (
        {**SESSION, "block_size": 128},
        "requests[0].hash_ids",
        "expected 1: one per full block of 128 tokens",
    ),
    "negative hash": (changed(3, hash_ids=[1, 2, -3]), "requests[3].hash_ids", "0 or more"),
    "half a hash": (changed(3, hash_ids=[1, 2.5, 3]), "requests[3].hash_ids", "integers"),
    "no hashes": (changed(0, hash_ids=None), "requests[0].hash_ids", "a list of prefix hashes"),
    "length": (changed(3, **{"in": -1}), "requests[3].in", "found -1"),
    "no length": (changed(3, out=None), "requests[3].out", "found None"),
    "back in time": (changed(3, t=1.0), "requests[3].t", "earlier than the entry before"),
    "kind": (changed(3, type="x"), "requests[3].type", "'n', 's' or 'subagent'"),
    "empty agent": (changed(1, requests=[]), "requests[1].requests", "a list of calls"),
    "global hashes": ({**SESSION, "hash_id_scope": "global"}, "hash_id_scope", "'local'"),
    "no list": ({**SESSION, "requests": 7}, None, "requests, a list of objects"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_document_is_named_with_its_field(tmp_path, case):
    document, field, message = BAD[case]
    folder = write(tmp_path / "w", {**SESSION, "id": "good"}, document)
    with pytest.raises(TraceError) as caught:
        read_trace(folder)
    assert Path(caught.value.path) == folder / "trace_1.json"
    assert caught.value.field == field
    assert message in str(caught.value)
    left = read_trace(folder, skip_bad_rows=True)
    assert {r.session for r in left} == {"good"}
    assert left.meta["skipped_rows"] == 1


def test_the_same_session_twice_is_an_error(tmp_path):
    with pytest.raises(TraceError, match="'one' a second time"):
        read_trace(write(tmp_path / "w", SESSION, SESSION))


@needs_weka
def test_all_571_sessions_are_as_measured():
    workload = read_trace(WEKA)
    prompts = np.array([len(r.prompt) for r in workload])
    assert (len(workload), workload.meta["sessions"]) == (36_864, 571)
    assert (np.percentile(prompts, 50), prompts.max()) == (110_251, 894_371)
    assert workload.closed
    # what the arrays of all hashes take: calls share those of the calls after them
    bases = {id(b): b for r in workload for b in [_base(_hashes(r))]}
    assert sum(b.nbytes for b in bases.values()) < 64e6

    # an endless cache for each session, subagents where they stand in the file
    hit = 0
    for requests in by_session(workload).values():
        seen = np.zeros(50_000, dtype=bool)
        low = min(int(_hashes(r).min(initial=2**62)) for r in requests)
        for request in sorted(requests, key=lambda r: r.turn or 0):
            hashes = _hashes(request) - low
            known = seen[hashes]
            hit += 64 * (len(known) if known.all() else int(np.argmin(known)))
            seen[hashes] = True
    assert hit / prompts.sum() == pytest.approx(0.961, abs=0.001)


def _hashes(request: TraceRequest) -> np.ndarray:
    prompt = request.prompt
    blocks = prompt.parts[0] if isinstance(prompt, JoinedTokens) else prompt
    return blocks.hash_ids if isinstance(blocks, BlockTokens) else np.empty(0, dtype=np.int64)


def _base(array: np.ndarray) -> np.ndarray:
    return array.base if isinstance(array.base, np.ndarray) else array
