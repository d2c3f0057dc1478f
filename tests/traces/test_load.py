"""Load: open-loop requests come at their times, closed-loop ones when what they wait for is there."""

from __future__ import annotations

import heapq
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from traces.load import ClosedLoop, Load, OpenLoop
from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest


def request(name: str, arrival_ns: int = 0, **fields: object) -> TraceRequest:
    tokens = SyntheticTokens(1, 4)
    return TraceRequest(name, arrival_ns, tokens, tokens, **fields)  # type: ignore[arg-type]


def play(load: Load, service_ns: int = 10) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Serve every request in `service_ns`, at once; returns when each was sent, ended, given up."""
    sent: dict[str, int] = {}
    ended: dict[str, int] = {}
    given_up: dict[str, int] = {}
    serving: list[tuple[int, int, str]] = []
    order = count()
    now = 0
    while True:
        arrivals, aborts = load.take(now)
        for arrival in arrivals:
            assert arrival.request.id not in sent, "sent twice"
            sent[arrival.request.id] = arrival.sent_ns
            heapq.heappush(serving, (now + service_ns, next(order), arrival.request.id))
        for name in aborts:
            given_up[name] = now
            ended[name] = now
            load.ended(name, now)
        while serving and serving[0][0] <= now:
            _, _, name = heapq.heappop(serving)
            if name not in ended:
                ended[name] = now
                load.ended(name, now)
        times = [serving[0][0]] if serving else []
        coming = load.next_ns()
        if coming is not None:
            times.append(coming)
        if not times:
            return sent, ended, given_up
        now = max(now, min(times))


def test_open_loop_sends_at_the_traces_times_whatever_is_answered() -> None:
    sent, _, _ = play(OpenLoop([request("a", 0), request("b", 3), request("c", 50)]), 1000)
    assert sent == {"a": 0, "b": 3, "c": 50}


def test_patience_counts_from_sending_and_ends_with_the_answer() -> None:
    requests = [request("a", 0, abort_ns=5), request("b", 2, abort_ns=30)]
    _, ended, given_up = play(OpenLoop(requests), service_ns=10)
    assert given_up == {"a": 5}
    assert ended == {"a": 5, "b": 12}
    # in closed loop b is sent at 10 + 7, and would be given up 28 later
    after = [
        request("a", 0),
        request("b", 2, abort_ns=7, session=None, depends_on=("a",), delay_ns=7),
    ]
    sent, _, given_up = play(ClosedLoop(after), service_ns=10)
    assert sent["b"] == 17
    assert given_up == {"b": 22}


def test_a_turn_waits_for_the_answer_before_it_and_its_delay() -> None:
    turns = [
        request("a", 5, session="s"),
        request("b", 6, session="s", depends_on=("a",), delay_ns=100),
        request("c", 7, session="s", depends_on=("b",), delay_ns=1),
    ]
    sent, ended, _ = play(ClosedLoop(turns))
    assert sent == {"a": 5, "b": ended["a"] + 100, "c": ended["b"] + 1}


def test_a_join_waits_for_all_and_a_subagent_starts_when_its_parent_is_sent() -> None:
    requests = [
        request("main", 0, session="s"),
        request("sub1", 0, session="s", spawned_by="main", delay_ns=3),
        request("sub2", 0, session="s", depends_on=("sub1",), delay_ns=40),
        request("join", 0, session="s", depends_on=("main", "sub2"), delay_ns=2),
    ]
    sent, ended, _ = play(ClosedLoop(requests))
    assert sent["sub1"] == 3
    assert sent["sub2"] == ended["sub1"] + 40
    assert sent["join"] == max(ended["main"], ended["sub2"]) + 2


def test_so_many_sessions_are_under_way_at_once() -> None:
    requests = [request(f"r{i}", i * 1000) for i in range(5)]
    sent, ended, _ = play(ClosedLoop(requests, concurrency=2))
    assert sent == {"r0": 0, "r1": 0, "r2": 10, "r3": 10, "r4": 20}
    assert ended["r4"] == 30


@st.composite
def session_graphs(draw: st.DrawFn) -> list[TraceRequest]:
    """Sessions of requests, each waiting for some that stand before it in its session."""
    requests = []
    clock = 0
    for s in range(draw(st.integers(1, 4))):
        names: list[str] = []
        for i in range(draw(st.integers(1, 6))):
            before = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
            spawner = draw(st.sampled_from([None, *names]))
            name = f"s{s}r{i}"
            clock += draw(st.integers(0, 20))  # a workload is in order of arrival
            requests.append(
                request(
                    name,
                    clock,
                    session=f"s{s}",
                    depends_on=tuple(before),
                    spawned_by=spawner,
                    delay_ns=draw(st.integers(0, 20)),
                    abort_ns=draw(st.sampled_from([None, clock + 25])),
                )
            )
            names.append(name)
    return requests


@given(session_graphs(), st.sampled_from([None, 1, 2, 5]), st.integers(0, 30))
def test_every_request_is_sent_once_and_never_before_what_it_waits_for(
    requests: list[TraceRequest], concurrency: int | None, service_ns: int
) -> None:
    sent, ended, _ = play(ClosedLoop(requests, concurrency), service_ns)
    assert sent.keys() == {r.id for r in requests} == ended.keys()
    for r in requests:
        waits = [ended[other] for other in r.depends_on]
        waits += [sent[r.spawned_by]] if r.spawned_by is not None else []
        if waits:
            assert sent[r.id] == max(waits) + r.delay_ns
    if concurrency is not None:
        spans = {}
        for r in requests:
            first, last = spans.get(r.session, (10**9, 0))
            spans[r.session] = (min(first, sent[r.id]), max(last, ended[r.id]))
        for start, _ in spans.values():
            under_way = sum(begun <= start < end for begun, end in spans.values())
            assert under_way <= concurrency
