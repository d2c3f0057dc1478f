"""Sessions: a workload says what waits for what, and holds only what can come; native keeps it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import (
    BlockTokens,
    ExplicitTokens,
    SyntheticTokens,
    Tokens,
    TraceError,
    TraceRequest,
    Workload,
    read_trace,
    write_native,
)
from traces.sessions import by_session, waits_for
from traces.tokens import JoinedTokens


def request(name: str, session: str | None = "s", **fields: object) -> TraceRequest:
    tokens = SyntheticTokens(1, 4)
    return TraceRequest(name, 0, tokens, tokens, session=session, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (
            [request("a", depends_on=("b",))],
            "'a' waits for 'b'; expected a request of the workload",
        ),
        ([request("a", spawned_by="b")], "'a' waits for 'b'; expected a request of the workload"),
        ([request("a", depends_on=("a",))], "does not stand before it"),
        ([request("a", depends_on=("b",)), request("b", depends_on=("a",))], "without cycles"),
        ([request("a", "t"), request("b", depends_on=("a",))], "of session 't'; expected requests"),
        ([request("a", None), request("b", None, depends_on=("a",))], "requests of one session"),
        ([request("a"), request("b", depends_on=("a", "a"))], "waits for a request twice"),
    ],
)
def test_a_workload_refuses_what_could_never_be_sent(requests, message):
    with pytest.raises(ValueError, match="request") as caught:
        Workload("w", requests)
    assert message in str(caught.value)


def test_delays_and_turns_are_not_negative():
    with pytest.raises(ValueError, match="delay_ns is -1; expected 0 or more"):
        request("a", delay_ns=-1)
    with pytest.raises(ValueError, match="turn is -1; expected 0 or more"):
        request("a", turn=-1)


def test_a_workload_is_closed_when_a_request_waits():
    assert not Workload("w", [request("a"), request("b")]).closed
    assert Workload("w", [request("a"), request("b", depends_on=("a",))]).closed
    assert Workload("w", [request("a"), request("b", spawned_by="a")]).closed


def test_requests_are_found_by_session():
    requests = [request("a"), request("b", None), request("c")]
    assert {k: [r.id for r in v] for k, v in by_session(requests).items()} == {
        "s": ["a", "c"],
        "request b": ["b"],
    }
    assert waits_for(request("d", depends_on=("a", "c"), spawned_by="b")) == ("a", "c", "b")


LEAVES = (
    st.builds(SyntheticTokens, st.integers(0, 2**63 - 1), st.integers(1, 50))
    | st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9).map(ExplicitTokens)
    | st.builds(
        lambda ids: BlockTokens(ids, 3, 3 * len(ids)), st.lists(st.integers(0, 9), min_size=1)
    )
)
TOKENS: st.SearchStrategy[Tokens] = LEAVES | st.lists(LEAVES, min_size=1, max_size=4).map(
    JoinedTokens
)


@st.composite
def graphs(draw: st.DrawFn) -> Workload:
    """Any sessions: each request may wait for any before it in its session, and for its sending."""
    requests: list[TraceRequest] = []
    arrival = 0
    for number in range(draw(st.integers(1, 12))):
        session = draw(st.sampled_from(["a", "b", None]))
        others = [r.id for r in requests if r.session == session and session is not None]
        waits = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
        arrival += draw(st.integers(0, 2**40))
        requests.append(
            TraceRequest(
                id=f"r{number}",
                arrival_ns=arrival,
                prompt=draw(TOKENS),
                output=draw(TOKENS),
                session=session,
                depends_on=tuple(waits),
                delay_ns=draw(st.integers(0, 2**60)),
                spawned_by=draw(st.sampled_from([None, *others])),
                turn=draw(st.none() | st.integers(0, 2**40)),
            )
        )
    return Workload("w", requests)


@settings(deadline=None)
@given(workload=graphs(), suffix=st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.zst"]))
def test_native_loses_nothing_of_a_session(tmp_path_factory, workload, suffix):
    path = tmp_path_factory.getbasetemp() / f"sessions{suffix}"
    write_native(workload, path)
    assert read_trace(path).requests == workload.requests


@settings(deadline=None)
@given(workload=graphs(), data=st.data())
def test_the_first_requests_of_a_session_can_always_be_sent(workload, data):
    workload.limit(data.draw(st.integers(1, len(workload))))


def test_a_native_file_from_before_sessions_is_read(tmp_path):
    path = tmp_path / "old.jsonl"
    text = {"key": 1, "length": 3}
    rows = [
        {"schema": "schedtwin.trace", "version": 1, "name": "n", "meta": {}},
        {"id": "a", "arrival_ns": 5, "prompt": [1, 2], "output": text, "session": "s"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [old] = read_trace(path)
    assert (old.depends_on, old.delay_ns, old.spawned_by, old.turn) == ((), 0, None, None)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"depends_on": ["c"]}, "depends_on", "found 'c'; expected the id of a request on a line"),
        ({"spawned_by": "b"}, "spawned_by", "found 'b'; expected the id of a request on a line"),
        ({"depends_on": ["a"], "session": "t"}, "depends_on", "found 'a' of session 's'"),
        ({"depends_on": ["a", "a"]}, "depends_on", "a request twice"),
        ({"depends_on": "a"}, "depends_on", "a list of request ids"),
        ({"delay_ns": -1}, "delay_ns", "found -1"),
        ({"turn": 0.5}, "turn", "found 0.5"),
        ({"prompt": {"parts": [{"parts": [[1]]}]}}, "prompt.parts", "parts within parts"),
        ({"prompt": {"parts": []}}, "prompt.parts", "a list of token sequences"),
    ],
)
def test_a_native_row_that_cannot_wait_is_named(tmp_path, fields, field, message):
    path = tmp_path / "bad.jsonl"
    row = {"id": "a", "arrival_ns": 5, "prompt": [1], "output": [2], "session": "s"}
    header = {"schema": "schedtwin.trace", "version": 1, "name": "n", "meta": {}}
    rows = [header, row, {**row, "id": "b", **fields}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert (caught.value.line, caught.value.field) == (3, field)
    assert message in str(caught.value)


def test_joined_tokens_are_their_parts_one_after_another():
    one, two = ExplicitTokens([1, 2]), SyntheticTokens(3, 4)
    joined = JoinedTokens([one, JoinedTokens([two, ExplicitTokens([])])])
    assert joined.parts == (one, two)
    assert joined == JoinedTokens([one, two])
    assert hash(joined) == hash(JoinedTokens([one, two]))
    assert joined.array().tolist() == [1, 2, *two.array().tolist()]
    assert len(joined) == 6
    assert JoinedTokens([]).array().tolist() == []
