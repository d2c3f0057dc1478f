"""A simulation under watch: the world as it is, beside a plain account of what it does.

`play` runs a workload through `World`. `Watch` notes what clients see the slow way, walking every row
of every batch; `CheckedScheduler` checks the invariants as it goes, and what it says of its own state
against the requests themselves. `tests.simulator.checks` holds a run's tables to that account.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from policies import PolicyConfig, Scheduler, State
from simulator.host import HostModel, HostOptions
from simulator.model import ReplayedModel
from simulator.recorder import Recorder
from simulator.world import World
from traces.load import OpenLoop
from traces.records import RunWriter
from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from collections.abc import Collection

    from policies import Batch, Events
    from policies.scheduler import Gauges
    from simulator import LatencyModel, StepShape
    from traces import Run

MS = 1_000_000
FREE_HOST = HostOptions(preset="zero")
EVERYTHING = ("requests", "steps", "tokens", "decisions")


@dataclass(frozen=True)
class Linear:
    """A latency model linear in the tokens of a step."""

    fixed_ns: int = 0
    prefill_token_ns: int = 0
    decode_row_ns: int = 0

    def step_ns(self, shape: StepShape) -> int:
        prefill = sum(new for new, _ in shape.prefill)
        rows = shape.decode_requests
        return self.fixed_ns + self.prefill_token_ns * prefill + self.decode_row_ns * rows


class Watch(Recorder):
    """A recorder that also keeps a plain account."""

    def __init__(self, writer: RunWriter) -> None:
        super().__init__(writer)
        self.times: dict[str, list[int]] = defaultdict(list)  # request -> when each token came
        self.ends: dict[str, int] = {}
        self.sampled = 0
        self.dropped = 0
        self.retractions: dict[str, int] = defaultdict(int)

    def events(self, events: Events, now_ns: int) -> None:
        if events.batch is not None:
            given = [item.request for item in events.batch.prefill if item.samples]
            if events.batch.decode is not None:
                given += events.batch.decode.requests
            self.sampled += len(given)
            self.dropped += len(events.dropped)
            for request in given:
                if request not in events.dropped:
                    self.times[request.id].append(now_ns)
        for request in events.retracted:
            self.retractions[request.id] += 1
        for request in events.ended:
            assert request.id not in self.ends, f"{request.id} ended twice"
            self.ends[request.id] = now_ns
        super().events(events, now_ns)


class CheckedScheduler(Scheduler):
    """A scheduler that checks itself every so many rounds, its gauges against its requests too."""

    check_every = 1
    rounds = 0

    def next_batch(self) -> Batch | None:
        batch = super().next_batch()
        self.rounds += 1
        if self.rounds % self.check_every == 0:
            self.check_integrity()
        return batch

    def gauges(self) -> Gauges:
        gauges = super().gauges()
        if self.rounds % self.check_every == 0:
            states = [request.state for request in self.live_requests()]
            assert gauges.waiting == states.count(State.WAITING)
            assert gauges.running <= states.count(State.RUNNING) <= self.max_running
        return gauges


@dataclass(frozen=True)
class Played:
    """A run, and what was seen of it from beside it."""

    run: Run
    watch: Watch
    work: Workload
    scheduler: CheckedScheduler


def play(
    work: Workload,
    policy: PolicyConfig,
    capacity: int,
    latency: LatencyModel,
    *,
    host: HostOptions = FREE_HOST,
    records: Collection[str] = EVERYTHING,
    check_every: int = 1,
) -> Played:
    """Run a workload to its end, all of it answered and all memory given back."""
    writer = RunWriter(None, {"kv_capacity_tokens": capacity}, records)
    watch = Watch(writer)
    scheduler = CheckedScheduler(policy, capacity)
    scheduler.check_every = check_every
    model = ReplayedModel(sample="decisions" in records)
    world = World(scheduler, OpenLoop(work), latency, HostModel(host), model, watch, leap=False)
    world.run()
    scheduler.check_integrity()
    assert not list(scheduler.live_requests()), "the run ended with work left"
    gauges = scheduler.gauges()
    assert gauges.free_tokens + gauges.evictable_tokens == scheduler.memory.capacity
    busy = world.device.busy_ns
    run = writer.close(itl=watch.itl_summary(), device_busy_ns=busy, end_ns=world.now)
    return Played(run, watch, work, scheduler)


def policy_of(**fields: Any) -> PolicyConfig:
    """A policy whose numbers are all given, as a world needs it."""
    return PolicyConfig(**{"chunked_prefill_size": None, "max_running_requests": 64} | fields)


def request_of(
    index: int, arrival_ns: int, prompt: int, output: int = 1, **fields: Any
) -> TraceRequest:
    """A request that shares its prompt with no other."""
    tokens = SyntheticTokens(2 * index, prompt), SyntheticTokens(2 * index + 1, output)
    return TraceRequest(f"r{index:06d}", arrival_ns, *tokens, **fields)


def poisson(rng: np.random.Generator, n: int, mean_gap_ns: float) -> list[int]:
    """Arrival times of a Poisson process, in integer nanoseconds."""
    gaps = np.rint(rng.exponential(mean_gap_ns, n)).astype(np.int64)
    times: list[int] = np.cumsum(gaps).tolist()
    return times


def crowd(seed: int, n: int, mean_gap_ns: float, prompt: int, output: int) -> Workload:
    """Poisson arrivals, lengths drawn apart and uniform from 1 to twice the mean."""
    rng = np.random.default_rng(seed)
    prompts, outputs = (rng.integers(1, 2 * mean, n).tolist() for mean in (prompt, output))
    rows = zip(poisson(rng, n, mean_gap_ns), prompts, outputs, strict=True)
    return Workload("crowd", [request_of(i, *row) for i, row in enumerate(rows)])
