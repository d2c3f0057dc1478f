"""Data parallelism: several schedulers that share the arrivals and step together.

Each rank is a whole scheduler with its own KV memory and host, in a SimPy process of its own; a front end
sends each request to one of them as it comes, and their devices run every step together (see
`simulator.lockstep`). Decode rounds are walked one by one, since any rank may change the next one.

The table of requests is that of one engine; in the table of steps each step has a row per rank that took
part, with the same times.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from policies.batch import NO_EVENTS, Mode
from policies.effects import Collect, Launch, Report, Sleep
from policies.loops import LOOPS
from policies.scheduler import Scheduler
from simulator.clock import Clock
from simulator.config import Plan
from simulator.device import Ticket
from simulator.lockstep import NO_ROWS, Lockstep
from simulator.model import ReplayedModel
from simulator.recorder import Recorder
from simulator.routing import ROUTERS
from simulator.simulation import as_config, as_load, manifest
from simulator.world import World, _shape
from traces.records.writer import RunWriter
from traces.workloads import as_workload

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping, Sequence
    from pathlib import Path

    import simpy

    from simulator.config import SimulatorConfig
    from simulator.host import HostModel
    from simulator.latency.base import LatencyModel
    from simulator.routing import Router
    from traces.load import Arrival, Load
    from traces.records.run import Run
    from traces.workload import Workload

LARGEST_GRAPH = 512


def simulate_ranks(
    workload: Workload | str | Path,
    config: SimulatorConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    ranks: int,
    settings: Sequence[str] = (),
    latency: LatencyModel | None = None,
    routing: str = "least-loaded",
    padded_up_to: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    records: Collection[str] = ("requests", "steps"),
) -> Run:
    """Simulate a workload under data parallelism.

    Args:
        workload: what all ranks serve together.
        config: of one rank: its KV memory, its limits.
        ranks: how many.
        settings: `section.key=value` settings over the config.
        latency: of one rank's device, instead of what the config says.
        routing: how the front end chooses: `least-loaded` or `round-robin`.
        padded_up_to: see `Lockstep`; by default as vLLM captures graphs, up to twice the requests that
            may run, 512 at most.
        out: the run folder; None keeps the run in memory.
        overwrite: replace the run that `out` holds.
        records: of requests, steps, tokens; requests are always recorded.

    Raises:
        ValueError: for fewer than one rank or an unknown routing; lists the known.
    """
    if ranks < 1:
        raise ValueError(f"ranks is {ranks}; it must be at least 1")
    if routing not in ROUTERS:
        raise ValueError(f"unknown routing {routing!r}; known are {', '.join(ROUTERS)}")
    config = as_config(config, settings)
    work = as_workload(workload, config.seed)
    plan = Plan.of(config)
    clock = Clock()
    if padded_up_to is None:
        running = plan.policy.max_running_requests
        padded_up_to = LARGEST_GRAPH if running == "auto" else min(2 * running, LARGEST_GRAPH)
    devices = Lockstep(clock, latency or plan.latency, ranks, padded_up_to)
    facts = manifest(work, config, plan) | {"ranks": ranks, "routing": routing}
    with RunWriter(out, facts, records, overwrite=overwrite) as writer:
        front = FrontEnd(clock, as_load(work, config.workload), ROUTERS[routing]())
        for rank in range(ranks):
            recorder = Recorder(writer)
            if front.ranks:
                recorder.itl = front.ranks[0].recorder.itl
            scheduler = Scheduler(plan.policy, plan.kv_capacity)
            front.ranks.append(
                Rank(rank, clock, devices, front, scheduler, plan.host, recorder, config)
            )
        front.run()
        counts: Counter[str] = Counter()
        for member in front.ranks:
            member.recorder.fold_gaps()  # into the accumulator that all of them share
            counts.update(member.recorder.counts(member.recorder.left_behind()))
        return writer.close(
            "complete",
            itl=front.ranks[0].recorder.itl_summary(),
            counts=dict(counts),
            flags=dict(devices.latency.flags()),
            device_busy_ns=devices.busy_ns,
            end_ns=clock.now_ns,
        )


class FrontEnd:
    """Takes what arrives, and sends each request to a rank.

    Args:
        clock: the simulation's.
        load: what arrives when.
        router: who chooses.
    """

    def __init__(self, clock: Clock, load: Load, router: Router) -> None:
        self.ranks: list[Rank] = []
        self._clock = clock
        self._load = load
        self._router = router
        self._rank_of: dict[str, Rank] = {}
        self._changed = clock.event()

    def run(self) -> None:
        """Until nothing comes in any more and nothing is left to do."""
        for rank in self.ranks:
            self._clock.process(rank.drive())
        self._clock.process(self._serve())
        self._clock.run()

    def ended(self, request_id: str, now_ns: int) -> None:
        """A request ended; its client may send another."""
        del self._rank_of[request_id]
        self._load.ended(request_id, now_ns)
        changed, self._changed = self._changed, self._clock.event()
        changed.succeed()

    def _serve(self) -> Generator[simpy.Event, Any, None]:
        while True:
            due = self._load.next_ns()
            if due is None:
                yield self._changed
            elif due > self._clock.now_ns:
                yield self._clock.timeout(due - self._clock.now_ns) | self._changed
            else:
                self._send()

    def _send(self) -> None:
        arrivals, aborts = self._load.take(self._clock.now_ns)
        for arrival in arrivals:
            index = self._router.choose(self._clock.now_ns, self._counts)
            rank = self.ranks[index]
            self._rank_of[arrival.request.id] = rank
            rank.inbox.put(arrival)
        for request_id in aborts:
            self._rank_of[request_id].inbox.give_up(request_id)

    def _counts(self) -> list[tuple[int, int]]:
        return [rank.counts() for rank in self.ranks]


class Inbox:
    """What a front end has sent to one rank and that has not taken yet: a rank's load.

    Args:
        clock: the simulation's.
        front: to be told of ends.
    """

    waits_for_ends = True

    def __init__(self, clock: Clock, front: FrontEnd) -> None:
        self._clock = clock
        self._front = front
        self._arrivals: list[Arrival] = []
        self._aborts: list[str] = []
        self.filled = clock.event()  # happens when something comes into an empty inbox

    def __len__(self) -> int:
        return len(self._arrivals) + len(self._aborts)

    def put(self, arrival: Arrival) -> None:
        """A request is sent to the rank."""
        self._arrivals.append(arrival)
        self._fill()

    def give_up(self, request_id: str) -> None:
        """A client gives up a request that was sent to it."""
        self._aborts.append(request_id)
        self._fill()

    def _fill(self) -> None:
        if not self.filled.triggered:
            self.filled.succeed()

    def next_ns(self) -> int | None:
        """See `Load.next_ns`: what will be sent here is not known."""
        return None

    def take(self, now_ns: int) -> tuple[list[Arrival], list[str]]:  # noqa: ARG002
        """See `Load.take`."""
        arrivals, self._arrivals = self._arrivals, []
        aborts, self._aborts = self._aborts, []
        if self.filled.triggered:
            self.filled = self._clock.event()
        return arrivals, aborts

    def ended(self, request_id: str, now_ns: int) -> None:
        """See `Load.ended`."""
        self._front.ended(request_id, now_ns)


class Rank(World):
    """One rank: a world whose device runs its steps together with others'."""

    def __init__(
        self,
        index: int,
        clock: Clock,
        devices: Lockstep,
        front: FrontEnd,
        scheduler: Scheduler,
        host: HostModel,
        recorder: Recorder,
        config: SimulatorConfig,
    ) -> None:
        self.inbox = Inbox(clock, front)
        self.recorder = recorder
        self._index = index
        self._devices = devices
        self._in_flight: deque[simpy.Event] = deque()
        super().__init__(
            scheduler,
            self.inbox,
            devices.latency,
            host,
            ReplayedModel(sample=recorder.wants_decisions),
            recorder,
            max_new_tokens=config.workload.max_new_tokens,
            ignore_eos=config.workload.ignore_eos,
            leap=False,
        )
        self.clock = clock

    def counts(self) -> tuple[int, int]:
        """Requests that wait, those not taken yet among them, and that run."""
        waiting = len(self.scheduler.waiting)
        return waiting + len(self.inbox), self.scheduler.live - waiting

    def drive(self) -> Generator[simpy.Event, Any, None]:
        """The host of this rank, as in `World`; it waits for steps, and for what is sent to it."""
        loop = LOOPS[self.scheduler.config.overlap](self.scheduler)
        answer: Any = None
        while True:
            effect = loop.send(answer)
            answer = None
            if isinstance(effect, Report):
                if effect.events is not NO_EVENTS:
                    self._report(effect.events)
                continue
            if isinstance(effect, Sleep):
                yield from self._sleep(effect.until)
                continue
            begin, finish = self._phases[type(effect)]
            delay = begin(effect)
            assert delay is not None
            if delay:
                yield self.clock.timeout(delay)
            if isinstance(effect, Collect):
                yield self._in_flight.popleft()
            answer = finish(effect)

    def _sleep(self, until: int | None) -> Generator[simpy.Event, Any, None]:
        busy = self._settle()
        if busy:
            yield self.clock.timeout(busy)
        if len(self.inbox):
            return
        self._devices.sleeps(self._index)
        if until is None:
            yield self.inbox.filled
        else:
            yield self.inbox.filled | self.clock.timeout(max(until - self.now, 0))
        self._devices.wakes(self._index)

    def _launch(self, effect: Launch) -> Ticket:
        now, batch = self.now, effect.batch
        self._recorder.launched(batch, now)
        result = self._model.result(batch)
        self._recorder.decided(batch, now, result)
        gauges = self.scheduler.gauges() if self._recorder.wants_steps else None
        ticket = Ticket(batch, result, gauges, self._launch_host, now, 0, 0)
        empty = batch.mode is Mode.EMPTY
        if not empty:
            self._stuck.launched()
        shape = NO_ROWS if empty else _shape(batch)
        self._in_flight.append(self._devices.submit(self._index, shape, ticket))
        return ticket
