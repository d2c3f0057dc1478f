"""The virtual world: carries out a scheduler's effects in SimPy's time.

One SimPy process is the host. It drives the event loop, and the host's own work, phase by phase, is
charged to it from a model; the device is a separate server, so what overlaps is seen to overlap.
Time is integer nanoseconds; each duration is rounded once, by the model that makes it.

It decides nothing, and knows nothing of how decisions are made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import simpy

from policies.batch import Inbox, Mode
from policies.effects import NOT_REPEATED, Collect, Launch, Receive, Repeat, Repeated, Report
from policies.loops import LOOPS
from policies.request import FinishReason, Request
from simulator.device import SerialDevice
from simulator.latency.base import StepShape
from simulator.leap import HostRound, Leap, overlapped_leap, serial_leap
from simulator.model import ReplayTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from policies.batch import Batch, Events, StepResult
    from policies.scheduler import Gauges, Scheduler
    from simulator.host import HostModel
    from simulator.latency.base import LatencyModel
    from simulator.model import ReplayedModel
    from simulator.recorder import Recorder
    from traces.load import Arrival, Load

STUCK_AFTER = 10_000
"""Rounds in a row without a batch or an arrival after which the scheduler is taken to be stuck."""


MOST = 65_536
"""Rounds gone through at once, at most: their times take memory."""


WORTH_LEAPING = 6
"""Fewer rounds than this are walked through in less time than a leap takes to prepare."""


class StuckError(RuntimeError):
    """The scheduler has work and plans nothing, round after round."""


class RefusedError(RuntimeError):
    """A request was refused, and the run was to be strict."""


class Ticket:
    """A batch on the device: its times in nanoseconds, and what the host spent on it by phase."""

    __slots__ = (
        "batch",
        "collect_host",
        "collected_ns",
        "end_ns",
        "gauges",
        "host",
        "launch_ns",
        "result",
        "start_ns",
    )

    def __init__(
        self,
        batch: Batch,
        result: StepResult,
        gauges: Gauges,
        host: tuple[int, int, int, int],
        launch_ns: int,
        start_ns: int,
        end_ns: int,
    ) -> None:
        self.batch = batch
        self.result = result
        self.gauges = gauges
        self.host = host  # receive, schedule, prepare, launch
        self.launch_ns = launch_ns
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.collected_ns = 0  # when its result was on the host
        self.collect_host = 0


class World:
    """See the module.

    Args:
        scheduler: whose effects to carry out.
        load: what arrives when.
        latency: how long the device takes.
        host: how long the host takes.
        model: what is sampled.
        recorder: notes what happens.
        max_new_tokens: overrides what requests ask for, if given.
        ignore_eos: overrides what requests say, if given.
        strict: a refused request is an error.
        leap: go through rounds in which nothing is decided at once; the records are the same.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        load: Load,
        latency: LatencyModel,
        host: HostModel,
        model: ReplayedModel,
        recorder: Recorder,
        *,
        max_new_tokens: int | None = None,
        ignore_eos: bool | None = None,
        strict: bool = False,
        leap: bool = True,
    ) -> None:
        self.env = simpy.Environment()
        self.device = SerialDevice(self.env)
        self.scheduler = scheduler
        self._load = load
        self._latency = latency
        self._host = host
        self._model = model
        self._recorder = recorder
        self._max_new_tokens = max_new_tokens
        self._ignore_eos = ignore_eos
        self._strict = strict
        self._may_leap = leap and not recorder.wants_decisions
        self._leap: Leap | None = None
        self._debt = 0  # host work done but not yet waited for, ns
        self._receive_ns = 0  # of the round going on
        self._planned = True  # whether the round going on has had its planning charged
        self._collected: Ticket | None = None
        self._empty_rounds = 0
        self._pending: Ticket | None = None  # the ticket launched last

    def run(self, on_progress: Callable[[], None] | None = None) -> None:
        """Run until nothing will come in and nothing is left to do.

        Args:
            on_progress: called each time a request ended.

        Raises:
            StuckError: where the scheduler has work but plans nothing.
            RefusedError: where a request was refused and the run is strict.
        """
        self.env.run(self.env.process(self._drive(on_progress)))

    @property
    def now(self) -> int:
        """The clock, in nanoseconds. Delays are integers, so it is one (SimPy allows floats)."""
        return self.env.now  # type: ignore[return-value]

    # -- the host process ---------------------------------------------------------------------

    def _drive(self, on_progress: Callable[[], None] | None) -> Generator[simpy.Event, Any, None]:
        loop = LOOPS[self.scheduler.config.overlap](self.scheduler)
        timeout = self.env.timeout
        answer: Any = None
        while True:
            effect = loop.send(answer)
            answer = None
            if isinstance(effect, Receive):
                self._charge_planning(0)
                yield timeout(self._debt)
                self._debt = 0
                answer = self._receive()
            elif isinstance(effect, Report):
                if self._report(effect.events) and on_progress is not None:
                    on_progress()
            elif isinstance(effect, Launch):
                batch = effect.batch
                host = self._charge_launch(batch)
                yield timeout(self._debt)
                self._debt = 0
                answer = self._launch(batch, host)
            elif isinstance(effect, Collect):
                self._charge_planning(0)
                yield timeout(max(self._debt, effect.ticket.end_ns - self.now))
                self._debt = 0
                answer = self._collect(effect.ticket)
            elif isinstance(effect, Repeat):
                leap = self._plan_leap(effect.batch, effect.at_most)
                if leap is None:
                    answer = NOT_REPEATED
                else:
                    yield timeout(int(leap.commit[-1]) - self.now)
                    self._debt = 0
                    self._leap = leap
                    ticket = leap.ticket
                    last = effect.batch.later(len(leap)) if ticket is None else ticket.batch
                    answer = Repeated(len(leap), last, ticket)
            else:
                wait = self._until_woken(effect.until)
                if wait is None:
                    return
                yield timeout(wait)

    def _plan_leap(self, batch: Batch, at_most: int) -> Leap | None:
        """The rounds to go through at once, and their times; None where that is not worth it."""
        if not self._may_leap:
            return None
        pending = self._pending if self.scheduler.overlapped else None
        if pending is not None and pending.result.stops:
            return None
        # the last step's result is committed only after the leap where it stays in flight
        rounds = min(at_most, self._model.rounds_to_stop(batch) + (pending is not None), MOST)
        if rounds < WORTH_LEAPING:
            return None
        assert batch.decode is not None
        rows = len(batch.decode)
        waiting, running = len(self.scheduler.waiting), len(self.scheduler.running)
        host = HostRound(
            self._host.receive_ns(0),
            self._host.schedule_ns(waiting, running, 0),
            self._host.prepare_ns(0, 0, rows),
            self._host.launch_ns(),
            self._host.collect_ns(rows),
            self._host.commit_ns(rows, 0),
        )
        until, now = self._load.next_ns(), self.now + self._debt
        if until is not None:  # look no further than there is time for, by the step before
            assert self._pending is not None
            on_device = self._pending.end_ns - self._pending.start_ns
            on_host = host.to_launch + host.to_commit
            round_ns = on_device + on_host if pending is None else max(on_device, on_host)
            rounds = min(rounds, max(until - now, 0) // max(round_ns, 1) + 1)
            if rounds < WORTH_LEAPING:
                return None
        kv_tokens = batch.decode.kv_tokens + rows
        device = self._latency.decode_steps_ns(rows, kv_tokens, rounds, batch.decode.seq_lens)
        gauges = self.scheduler.gauges()
        if pending is None:
            leap = serial_leap(now, host, device, until, gauges)
        else:
            leap = overlapped_leap(now, host, device, until, gauges, pending)
        if len(leap) < 2:
            return None
        self.device.catch_up(int(leap.end[-1]), int((leap.end - leap.start).sum()))
        if pending is not None:
            last = batch.later(len(leap))
            costs = (host.receive, host.schedule, host.prepare, host.launch)
            times = int(leap.launch[-1]), int(leap.start[-1]), int(leap.end[-1])
            self._pending = Ticket(last, self._model.result(last), gauges, costs, *times)
            leap = replace(leap, ticket=self._pending)
        return leap

    def _until_woken(self, until: int | None) -> int | None:
        """How long to sleep, in nanoseconds; None if nothing will ever come in."""
        self._charge_planning(0)
        wake = self._load.next_ns()
        if until is not None:
            wake = until if wake is None else min(wake, until)
        if wake is None:
            return None
        wait = max(wake - self.now, self._debt, 0)
        self._debt = 0
        return wait

    def _receive(self) -> Inbox:
        arrivals, aborts = self._load.take(self.now)
        inbox = Inbox(self.now, [self._request(arrival) for arrival in arrivals], aborts)
        self._receive_ns = self._host.receive_ns(len(arrivals))
        self._debt += self._receive_ns
        self._planned = False
        self._recorder.received(self.scheduler.iteration + 1, inbox)
        if arrivals:
            self._empty_rounds = 0
        self._empty_rounds += 1
        if self._empty_rounds > STUCK_AFTER:
            policy = self.scheduler.config
            raise StuckError(
                f"batching {policy.batching!r} with order {policy.order!r} planned no batch in "
                f"{STUCK_AFTER} rounds, with work to do, at {self.now} ns: {self.scheduler.describe()}"
            )
        return inbox

    def _request(self, arrival: Arrival) -> Request:
        r = arrival.request
        return Request(
            r.id,
            ReplayTokens(r.prompt, r.output),
            r.max_new_tokens if self._max_new_tokens is None else self._max_new_tokens,
            arrival.sent_ns,
            ignore_eos=r.ignore_eos if self._ignore_eos is None else self._ignore_eos,
            priority=r.priority,
            extra_key=r.extra_key,
            routing_key=r.routing_key,
            lora_id=r.lora_id,
            tenant=r.tenant,
            session=r.session,
            sampling=r.sampling,
        )

    def _charge_planning(self, prefill_requests: int) -> int:
        """Charge the host for the round's planning, unless that was done; returns the charge."""
        if self._planned:
            return 0
        self._planned = True
        s = self.scheduler
        cost = self._host.schedule_ns(len(s.waiting), len(s.running), prefill_requests)
        self._debt += cost
        return cost

    def _charge_launch(self, batch: Batch) -> tuple[int, int, int, int]:
        schedule = self._charge_planning(len(batch.prefill))
        prefill_tokens = batch.prefill_tokens if batch.prefill else 0
        prepare = self._host.prepare_ns(len(batch.prefill), prefill_tokens, batch.decode_requests)
        launch = self._host.launch_ns()
        self._debt += prepare + launch
        return self._receive_ns, schedule, prepare, launch

    def _launch(self, batch: Batch, host: tuple[int, int, int, int]) -> Ticket:
        now = self.now
        if batch.mode is Mode.EMPTY:
            duration = 0
        else:
            duration = self._latency.step_ns(_shape(batch))
            self._empty_rounds = 0
        start, end = self.device.submit(duration)
        self._recorder.launched(batch, now)
        result = self._model.result(batch)
        self._recorder.decided(batch, now, result)
        gauges = self.scheduler.gauges()
        self._pending = Ticket(batch, result, gauges, host, now, start, end)
        return self._pending

    def _collect(self, ticket: Ticket) -> StepResult:
        ticket.collect_host = self._host.collect_ns(ticket.batch.items)
        self._debt += ticket.collect_host
        ticket.collected_ns = self.now + self._debt
        self._collected = ticket
        return ticket.result

    def _report(self, events: Events) -> bool:
        """Let clients notice; returns whether any request ended."""
        if events.repeated is not None:
            assert self._leap is not None
            self._recorder.leapt(self._leap, events.repeated)
            self._leap = None
            return False
        if events.batch is not None:
            self._debt += self._host.commit_ns(events.batch.items, len(events.ended))
        now = self.now + self._debt
        self._recorder.events(events, now)
        if events.batch is not None:
            ticket = self._collected
            assert ticket is not None
            self._recorder.committed(ticket, ticket.gauges, now, ticket.collect_host)
        for request in events.ended:
            self._end(request, now)
        return bool(events.ended)

    def _end(self, request: Request, now: int) -> None:
        assert isinstance(request.tokens, ReplayTokens)
        request.tokens.forget()
        self._load.ended(request.id, now)
        if self._strict and request.finish_reason is FinishReason.REFUSED:
            raise RefusedError(f"request {request.id!r} was refused: {request.refusal}")


def _shape(batch: Batch) -> StepShape:
    """What a latency model is told of a batch."""
    decode = batch.decode
    if not batch.prefill:
        assert decode is not None
        rows = len(decode)
        return StepShape((), rows, decode.kv_tokens, rows, decode.seq_lens)
    prefill = [(item.length, item.start) for item in batch.prefill]
    sampled = sum(1 for item in batch.prefill if item.samples)
    if decode is None:
        return StepShape(prefill, 0, 0, sampled, _no_lens)
    rows = len(decode)
    return StepShape(prefill, rows, decode.kv_tokens, sampled + rows, decode.seq_lens)


def _no_lens() -> Any:
    import numpy as np

    return np.zeros(0, dtype=np.int64)
