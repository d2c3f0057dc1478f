"""Requests and workloads hold only what can be replayed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import SyntheticTokens, TraceRequest, Workload


def request(name: str = "r0", arrival_ns: int = 0, **fields) -> TraceRequest:
    return TraceRequest(name, arrival_ns, SyntheticTokens(0, 8), SyntheticTokens(1, 4), **fields)


def test_a_client_asks_for_the_output_length_unless_told_otherwise():
    assert request().max_new_tokens == 4
    assert request(max_new_tokens=9).max_new_tokens == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "an id that is not empty"),
        ({"arrival_ns": -1}, "arrival_ns is -1"),
        ({"prompt": SyntheticTokens(0, 0)}, "prompt is no token"),
        ({"output": SyntheticTokens(0, 0)}, "output is no token"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"arrival_ns": 5, "abort_ns": 4}, "abort_ns is 4"),
    ],
)
def test_an_impossible_request_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(request(), **change)


def test_requests_must_stand_in_arrival_order_and_be_told_apart():
    with pytest.raises(ValueError, match="'b' at 1 ns stands after 'a' at 2 ns"):
        Workload("w", [request("a", 2), request("b", 1)])
    with pytest.raises(ValueError, match="two requests are called 'a'"):
        Workload("w", [request("a"), request("b"), request("a")])


def test_limit_takes_the_first_requests_and_says_so():
    workload = Workload("w", [request("a"), request("b", 3), request("c", 9)], {"seed": 1})
    assert [one.id for one in workload.limit(2)] == ["a", "b"]
    assert workload.limit(2).meta == {"seed": 1, "limit": 2}
    assert workload.limit(2).duration_ns == 3
    assert workload.limit(3) is workload
    with pytest.raises(ValueError, match="at least 1 request"):
        workload.limit(0)


def test_speedup_divides_arrivals_and_leaves_patience():
    workload = Workload("w", [request("a"), request("b", 1_000, abort_ns=1_500)])
    faster = workload.speedup(4)
    assert [one.arrival_ns for one in faster] == [0, 250]
    assert faster.requests[1].abort_ns == 750
    assert faster.speedup(0.5).meta["speedup"] == 2.0
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="positive number"):
            workload.speedup(wrong)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**61)), st.floats(0.5, 1e6))  # and not beyond 2**63
def test_speedup_keeps_order_and_is_exact_to_half_a_nanosecond(arrivals, factor):
    arrivals = sorted(arrivals)
    workload = Workload("w", [request(f"r{i}", at) for i, at in enumerate(arrivals)])
    numerator, denominator = factor.as_integer_ratio()
    for before, after in zip(arrivals, workload.speedup(factor), strict=True):
        assert abs(2 * after.arrival_ns * numerator - 2 * before * denominator) <= numerator


def test_a_workload_shows_itself_in_a_line():
    assert repr(Workload("mine", [request()])) == "<Workload mine: 1 request over 0.0 s>"
    several = [request(f"r{i}", i * 10**9) for i in range(1200)]
    assert repr(Workload("mine", several)) == "<Workload mine: 1,200 requests over 1,199.0 s>"
