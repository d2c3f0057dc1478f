"""The recorder leaps over what does not change; what it writes is what walking every row gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import PolicyConfig
from simulator.host import HostOptions
from tests.policies.workloads import policies
from tests.simulator.checks import check_records, rows_of
from tests.simulator.harness import FREE_HOST, MS, Linear, crowd, play, policy_of, request_of
from traces.tokens import ExplicitTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from tests.simulator.harness import Played

COSTS = (Linear(), Linear(1000), Linear(7, 3, 1), Linear(5 * MS, 1000, 50_000))
HOSTS = (FREE_HOST, HostOptions(), HostOptions(preset="zero", schedule_fixed_ns=400))


@st.composite
def requests(draw: st.DrawFn, index: int, at: int, longest: int) -> TraceRequest:
    """Prompts that share prefixes; some stop by themselves, some are given up."""
    family, own = draw(st.integers(0, 2)), draw(st.integers(0, longest - 1))
    shared = draw(st.integers(1, longest - own))
    prompt = [*range(family * 1000, family * 1000 + shared), *range(5000, 5000 + own)]
    output = draw(st.integers(1, longest))
    patience = draw(st.none() | st.none() | st.sampled_from((0, 1, 3000, 20 * MS)))
    return TraceRequest(
        f"r{index:02d}",
        at,
        ExplicitTokens(prompt),
        ExplicitTokens(list(range(9000, 9000 + output))),
        draw(st.integers(1, 2 * longest)),
        ignore_eos=draw(st.booleans()),
        priority=draw(st.sampled_from((None, 0, 1, 5))),
        abort_ns=None if patience is None else at + patience,
    )


@st.composite
def workloads(draw: st.DrawFn, longest: int) -> Workload:
    gaps = draw(st.lists(st.sampled_from((0, 0, 1, 2000, 6 * MS)), min_size=1, max_size=12))
    arrivals = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    return Workload("w", [draw(requests(i, at, longest)) for i, at in enumerate(arrivals)])


def check_any(data: st.DataObject, policy: PolicyConfig) -> None:
    page = policy.page_size
    capacity = data.draw(st.integers(3 * page + 6, 8 * page + 80)) // page * page
    work = data.draw(workloads(data.draw(st.sampled_from((capacity // 4, capacity // 2 + 1)))))
    latency, host = data.draw(st.sampled_from(COSTS)), data.draw(st.sampled_from(HOSTS))
    check_records(play(work, policy, capacity, latency, host=host))


@given(st.data())
def test_any_run_is_recorded_as_it_was(data: st.DataObject) -> None:
    check_any(data, data.draw(policies()))


@given(st.data())
def test_so_is_one_whose_requests_sit_rounds_out(data: st.DataObject) -> None:
    """Decode-first: who finds no budget stays admitted, and goes on without a prefill."""
    policy = PolicyConfig(
        batching="decode-first",
        batching_options={"max_num_batched_tokens": data.draw(st.sampled_from((8, 16)))},
        cache=data.draw(st.sampled_from(("blocks", "none"))),
        overlap=data.draw(st.sampled_from(("serial", "overlapped"))),
        page_size=4,
        max_running_requests=data.draw(st.sampled_from((1, 2, 8))),
    )
    check_any(data, policy.model_copy(update={"chunked_prefill_size": None}))


def pressed(gap_ns: float) -> Workload:
    """More than a small pool holds: outputs are long, and nobody could tell from what was asked for."""
    crowded = crowd(5, 60, gap_ns, prompt=8, output=60)
    made = [
        replace(
            request,
            ignore_eos=False,
            max_new_tokens=150,
            priority=index % 4,
            abort_ns=request.arrival_ns + 40 * MS if index % 7 == 0 else None,
        )
        for index, request in enumerate(crowded)
    ]
    return Workload("pressed", made)


def press(gap_ns: float, **policy: Any) -> Played:
    ratio = {"conservativeness": 0.05, "retract_decode_steps": 0, "decay_steps": 3}
    given = policy_of(new_token_ratio=ratio, prefill_max_requests=2, **policy)
    return play(pressed(gap_ns), given, 800, Linear(MS, 1000, 10_000), host=HostOptions())


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("batching", ["prefill-first", "mixed", "static"])
@pytest.mark.parametrize(("page_size", "cache"), [(1, "radix"), (16, "radix"), (1, "none")])
def test_retracted_requests_go_on_where_they_were(
    batching: str, overlap: str, page_size: int, cache: str
) -> None:
    played = press(0, batching=batching, overlap=overlap, page_size=page_size, cache=cache)
    assert sum(played.watch.retractions.values()) >= 4
    check_records(played)
    reasons = {row["finish_reason"] for row in rows_of(played.run, "requests")}
    assert reasons == {"stop", "abort"}


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("batching", ["prefill-first", "mixed"])
def test_preempted_requests_go_on_where_they_were(batching: str, overlap: str) -> None:
    priority = {"enabled": True, "preemption_threshold": 0}
    limits = {"max_running_requests": 4, "priority": priority}
    played = press(9 * MS, batching=batching, overlap=overlap, **limits)
    assert sum(played.watch.retractions.values()) >= 4
    check_records(played)


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_a_request_preempted_before_it_ever_decodes_is_counted_once(overlap: str) -> None:
    better = request_of(1, 1, prompt=4, output=1, priority=1)
    work = Workload("w", [request_of(0, 0, prompt=4, output=3, priority=0), better])
    priority = {"enabled": True, "preemption_threshold": 0}
    policy = policy_of(max_running_requests=1, priority=priority, overlap=overlap)
    played = play(work, policy, 100, Linear(1000))
    assert played.watch.retractions == {"r000000": 1}
    assert played.run.manifest["itl"]["count"] == 2
    check_records(played)


def test_tokens_launched_in_vain_are_dropped() -> None:
    """The overlapped loop learns of a stop one step late: that step's token is nobody's."""
    stops = [request_of(i, 0, 10, 5, ignore_eos=False, max_new_tokens=9) for i in range(3)]
    work = Workload("w", stops)
    serial, overlapped = (
        play(work, policy_of(overlap=overlap), 1000, Linear(MS))
        for overlap in ("serial", "overlapped")
    )
    assert serial.watch.dropped == 0
    assert overlapped.watch.dropped == 3
    assert [len(t) for t in serial.watch.times.values()] == [5, 5, 5]
    assert [len(t) for t in overlapped.watch.times.values()] == [5, 5, 5]
