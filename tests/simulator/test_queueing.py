"""Queueing theory: where it knows the answer, the simulator gives it.

With one running request and one output token a server is what the textbooks call M/G/1, first come
first served. Waiting times must follow Lindley's recursion to the nanosecond; what their means and
distributions must be then follows from the arrivals being Poisson. Tolerances come from batch means
(Law, "Simulation Modeling and Analysis", 9.5.3): the run is cut into batches long enough for their
means to be independent, and theory must lie within Student's 99.9 % interval around the mean of those.
"""

from __future__ import annotations

from math import exp, factorial, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

from simulator.host import HostOptions
from tests.simulator.checks import rows_of
from tests.simulator.harness import (
    FREE_HOST,
    MS,
    Linear,
    crowd,
    play,
    poisson,
    policy_of,
    request_of,
)
from traces.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from tests.simulator.harness import Played

SERVICE_NS = 10 * MS
REQUESTS = 12_000
BATCHES = 24
CONFIDENCE = 0.999


def serve_alone(prompts: Sequence[int], load: float, seed: int, **policy: Any) -> Played:
    """A server of one request at a time, each one prefill of 1000 ns a prompt token.

    `load` is the utilisation: the arrival rate times the mean service time.
    """
    rng = np.random.default_rng(seed)
    arrivals = poisson(rng, len(prompts), 1000 * float(np.mean(prompts)) / load)
    rows = zip(arrivals, prompts, strict=True)
    work = Workload("alone", [request_of(i, at, prompt) for i, (at, prompt) in enumerate(rows)])
    options: dict[str, Any] = {"cache": "none", "max_running_requests": 1, **policy}
    latency = Linear(prefill_token_ns=1000)
    capacity = 4 * max(prompts)
    records = ("requests", "steps")
    return play(work, policy_of(**options), capacity, latency, records=records, check_every=997)


def columns(played: Played, *names: str) -> list[npt.NDArray[np.int64]]:
    """Columns of the table of requests, in order of arrival."""
    rows = sorted(rows_of(played.run, "requests"), key=lambda row: row["id"])
    return [np.array([row[name] for row in rows], dtype=np.int64) for name in names]


def waits(played: Played) -> npt.NDArray[np.int64]:
    arrival, scheduled = columns(played, "arrival_ns", "first_scheduled_ns")
    return scheduled - arrival


def assert_mean(samples: npt.NDArray[Any], theory: float) -> None:
    """Theory lies in the confidence interval around the mean of batch means, and that is narrow.

    The start from empty is left in: it ends within a few hundred requests at these loads.
    """
    means = samples[: len(samples) // BATCHES * BATCHES].reshape(BATCHES, -1).mean(axis=1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, BATCHES - 1) * means.std(ddof=1) / sqrt(BATCHES)
    assert abs(means.mean() - theory) <= half, (means.mean(), theory, half)
    assert half < 0.25 * theory, "too wide an interval to show anything"


def lindley(played: Played, service: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Waiting times of a first come, first served queue (Lindley, 1952)."""
    (arrival,) = columns(played, "arrival_ns")
    waiting = [0]
    for i in range(1, len(arrival)):
        before = waiting[-1] + int(service[i - 1])
        waiting.append(max(0, before - int(arrival[i] - arrival[i - 1])))
    return np.array(waiting)


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
def test_one_request_at_a_time_is_m_d_1(load: float, overlap: str) -> None:
    played = serve_alone([SERVICE_NS // 1000] * REQUESTS, load, seed=11, overlap=overlap)
    waiting = waits(played)
    service = np.full(REQUESTS, SERVICE_NS)
    assert (waiting == lindley(played, service)).all()
    arrival, finish = columns(played, "arrival_ns", "finish_ns")
    assert (finish == arrival + waiting + SERVICE_NS).all()

    # Pollaczek and Khinchine: W = rho S / (2 (1 - rho))
    assert_mean(waiting, load * SERVICE_NS / (2 * (1 - load)))
    for at in (0, SERVICE_NS // 2, SERVICE_NS, 2 * SERVICE_NS):
        assert_mean(waiting <= at, m_d_1_waits_at_most(at / SERVICE_NS, load))


def m_d_1_waits_at_most(at: float, load: float) -> float:
    """P(wait <= at service times) in M/D/1 (Erlang, 1909)."""
    terms = (
        (load * (k - at)) ** k / factorial(k) * exp(load * (at - k)) for k in range(int(at) + 1)
    )
    return (1 - load) * sum(terms)


@pytest.mark.parametrize("load", [0.4, 0.6])
def test_prompts_of_varied_length_are_m_g_1(load: float) -> None:
    """Service in proportion to the prompt: W = lambda E[S^2] / (2 (1 - rho))."""
    rng = np.random.default_rng(5)
    prompts: list[int] = np.ceil(rng.exponential(1000, REQUESTS)).astype(int).tolist()
    played = serve_alone(prompts, load, seed=12)
    service = 1000 * np.array(prompts)
    waiting = waits(played)
    assert (waiting == lindley(played, service)).all()
    second_moment = float((service.astype(float) ** 2).mean())
    rate = load / service.mean()
    assert_mean(waiting, rate * second_moment / (2 * (1 - load)))
    # nearly exponential service: M/M/1, whose waits exceed t with rho exp(-(1 - rho) t / S)
    mean = service.mean()
    assert_mean(waiting > mean, load * exp(-(1 - load)))


def test_priorities_without_preemption_are_cobhams() -> None:
    """Mean waits by class of a server that never interrupts (Cobham, 1954)."""
    load, classes = 0.7, 2
    rng = np.random.default_rng(8)
    arrivals = poisson(rng, 2 * REQUESTS, SERVICE_NS / load)
    prompt = SERVICE_NS // 1000
    ranks = rng.integers(0, classes, 2 * REQUESTS).tolist()
    work = Workload(
        "classes",
        [
            request_of(i, at, prompt, priority=rank)
            for i, (at, rank) in enumerate(zip(arrivals, ranks, strict=True))
        ],
    )
    priority = {"enabled": True, "preemption": False, "low_values_first": True}
    policy = policy_of(cache="none", max_running_requests=1, priority=priority)
    latency = Linear(prefill_token_ns=1000)
    records = ("requests", "steps")
    waiting = waits(play(work, policy, 4 * prompt, latency, records=records, check_every=997))
    residual = load * SERVICE_NS / 2
    upto = 0.0
    for rank in range(classes):
        before, upto = upto, upto + load / classes
        mine = waiting[np.array(ranks) == rank]
        assert_mean(mine, residual / ((1 - before) * (1 - upto)))


def test_shortest_first_waits_less_than_first_come_for_the_same_work() -> None:
    """Work is conserved: the server is busy in the same spans, whoever goes first."""
    rng = np.random.default_rng(6)
    prompts: list[int] = np.ceil(rng.exponential(1000, 1500)).astype(int).tolist()
    options = {"cache": "radix"}
    first_come = serve_alone(prompts, 0.9, seed=3, **options)
    shortest = serve_alone(prompts, 0.9, seed=3, order="shortest-prefill-first", **options)
    assert waits(shortest).mean() < 0.8 * waits(first_come).mean()

    def busy(played: Played) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for step in rows_of(played.run, "steps"):
            if spans and spans[-1][1] == step["start_ns"]:
                spans[-1] = spans[-1][0], step["end_ns"]
            else:
                spans.append((step["start_ns"], step["end_ns"]))
        return spans

    assert busy(shortest) == busy(first_come)


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("batching", ["prefill-first", "mixed", "static"])
@pytest.mark.parametrize("gap_ms", [40, 4])
@pytest.mark.parametrize("order", ["fcfs", "lof"])
def test_littles_law_holds_exactly(order: str, gap_ms: int, batching: str, overlap: str) -> None:
    """L T = sum of the times in the system, in whole nanoseconds; at a gap of 4 ms under overload.

    L T is counted from what the world's clients saw, walking from event to event; the times in the
    system are the table's.
    """
    policy = policy_of(batching=batching, overlap=overlap, order=order, chunked_prefill_size=512)
    work = crowd(gap_ms, 300, gap_ms * MS, prompt=300, output=20)
    latency = Linear(2 * MS, 20_000, 100_000)
    played = play(work, policy, 6000, latency, host=HostOptions(), check_every=50)
    arrival, finish = columns(played, "arrival_ns", "finish_ns")
    ends = sorted(played.watch.ends.values())
    changes = sorted([(at, 1) for at in arrival.tolist()] + [(at, -1) for at in ends])
    inside = area = now = most = 0
    for at, change in changes:
        area += inside * (at - now)
        inside, now = inside + change, at
        most = max(most, inside)
    assert inside == 0
    assert area == int((finish - arrival).sum())
    assert (most > 100) == (gap_ms == 4), "overloaded or not, as meant"

    # and what each step says of the scheduler agrees: nobody is in the queue or running twice
    for step in rows_of(played.run, "steps"):
        before = step["launch_ns"]
        came = int((arrival <= before).sum())
        left = int((finish <= before).sum())
        assert step["waiting"] + step["running"] <= came - left


def test_the_hosts_time_is_part_of_the_service_time() -> None:
    """A host that is slow serves as a slow device does, under the serial loop."""
    prompts = [1000] * 800
    host = HostOptions(preset="zero", launch_fixed_ns=3 * MS, commit_fixed_ns=2 * MS)
    arrivals = poisson(np.random.default_rng(2), len(prompts), 9 * MS)
    work = Workload("w", [request_of(i, at, 1000) for i, at in enumerate(arrivals)])
    policy = policy_of(cache="none", max_running_requests=1, overlap="serial")
    slow_host = play(work, policy, 4000, Linear(1 * MS), host=host)
    slow_device = play(work, policy, 4000, Linear(6 * MS), host=FREE_HOST)
    assert (columns(slow_host, "finish_ns")[0] == columns(slow_device, "finish_ns")[0]).all()
