"""The virtual world: carries out a scheduler's effects in SimPy's time.

One SimPy process is the host. It drives the event loop, and the host's own work, phase by phase, is
charged to it from a model; the device is a separate server, so what overlaps is seen to overlap.
Time is integer nanoseconds; each duration is rounded once, by the model that makes it.

It decides nothing, and knows nothing of how decisions are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from policies.batch import NO_EVENTS, Inbox, Mode
from policies.effects import (
    NOT_REPEATED,
    Collect,
    Launch,
    Receive,
    Repeat,
    Repeated,
    Report,
    Sleep,
)
from policies.loops import LOOPS
from policies.request import FinishReason, Request
from policies.stuck import StuckGuard
from simulator.clock import Clock
from simulator.device import SerialDevice, Ticket
from simulator.latency.base import StepShape
from simulator.leaper import Leaper
from simulator.model import ReplayTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import simpy

    from policies.batch import Batch, Events, StepResult
    from policies.effects import Effect
    from policies.scheduler import Scheduler
    from simulator.host import HostModel
    from simulator.latency.base import LatencyModel
    from simulator.leap import Leap
    from simulator.model import ReplayedModel
    from simulator.recorder import Recorder
    from traces.load import Arrival, Load


class RefusedError(RuntimeError):
    """A request was refused, and the run was to be strict."""


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
        self.clock = Clock()
        self.device = SerialDevice(self.clock)
        self.scheduler = scheduler
        self._load = load
        self._latency = latency
        self._host = host
        self._model = model
        self._recorder = recorder
        self._max_new_tokens = max_new_tokens
        self._ignore_eos = ignore_eos
        self._strict = strict
        may_leap = leap and not recorder.wants_decisions
        self._leaper = Leaper(scheduler, load, latency, host, model) if may_leap else None
        self._leap: Leap | None = None
        self._debt = 0  # host work done but not yet waited for, ns
        self._receive_ns = 0  # of the round going on
        self._planned = True  # whether the round going on has had its planning charged
        self._collected: Ticket | None = None
        self._stuck = StuckGuard()
        self._launch_host = (0, 0, 0, 0)  # spent on the launch going on: see `Ticket.host`
        self._last: Ticket | None = None  # launched last

    def run(self, on_progress: Callable[[], None] | None = None) -> None:
        """Run until nothing will come in and nothing is left to do.

        Args:
            on_progress: called each time a request ended.

        Raises:
            StuckError: where the scheduler has work but plans nothing.
            RefusedError: where a request was refused and the run is strict.
        """
        self.clock.run(self.clock.process(self._drive(on_progress)))

    @property
    def now(self) -> int:
        """The time, in nanoseconds."""
        return self.clock.now_ns

    # -- the host process ---------------------------------------------------------------------

    def _drive(self, on_progress: Callable[[], None] | None) -> Generator[simpy.Event, Any, None]:
        loop = LOOPS[self.scheduler.config.overlap](self.scheduler)
        skip, timeout = self.clock.skip, self.clock.timeout
        answer: Any = None
        while True:
            effect = loop.send(answer)
            if isinstance(effect, Report):
                answer = None
                if effect.events is not NO_EVENTS and self._report(effect.events) and on_progress:
                    on_progress()
                continue
            delay = self._delay(effect)
            if delay is None:
                return
            if not skip(delay):
                yield timeout(delay)
            answer = self._answer(effect)

    def _delay(self, effect: Effect) -> int | None:
        """How long an effect takes, in nanoseconds; None for a sleep from which nothing will wake.

        The host's work up to now is waited for with it, or else while the device works.
        """
        if isinstance(effect, Repeat):
            self._leap = self._plan_leap(effect.batch, effect.at_most)
            if self._leap is None:
                return 0
            self._debt = 0
            return int(self._leap.commit[-1]) - self.clock.now_ns
        if isinstance(effect, Launch):
            self._launch_host = self._charge_launch(effect.batch)
        else:
            self._charge_planning(0)
        delay, self._debt = self._debt, 0
        if isinstance(effect, Collect):
            ticket: Ticket = effect.ticket
            return max(delay, ticket.end_ns - self.clock.now_ns)
        if isinstance(effect, Sleep):
            return self._until_woken(effect.until, delay)
        return delay

    def _answer(self, effect: Effect) -> Any:
        """The answer to an effect, once its time is over."""
        if isinstance(effect, Receive):
            return self._receive()
        if isinstance(effect, Launch):
            return self._launch(effect.batch)
        if isinstance(effect, Collect):
            return self._collect(effect.ticket)
        leap = self._leap
        if not isinstance(effect, Repeat):
            return None
        if leap is None:
            return NOT_REPEATED
        ticket = leap.ticket
        last = effect.batch.later(len(leap)) if ticket is None else ticket.batch
        return Repeated(len(leap), last, ticket)

    def _plan_leap(self, batch: Batch, at_most: int) -> Leap | None:
        """The rounds to go through at once; None where that is not worth it."""
        if self._leaper is None:
            return None
        last = self._last
        assert last is not None
        leap = self._leaper.plan(batch, at_most, self.now + self._debt, last)
        if leap is None:
            return None
        if self._recorder.wants_steps:
            leap.gauges = self.scheduler.gauges()
        end = int(leap.start[-1]) + int(leap.device[-1])
        self.device.catch_up(end, int(np.add.reduce(leap.device)))
        if leap.pending is not None:
            batch = batch.later(len(leap))
            launched = (int(leap.commit[-2]) if len(leap) > 1 else leap.begun) + leap.host.to_launch
            times = launched, int(leap.start[-1]), end
            self._last = Ticket(batch, self._model.result(batch), None, leap.host[:4], *times)
            leap.ticket = self._last
        return leap

    def _until_woken(self, until: int | None, busy: int) -> int | None:
        """How long to sleep, in nanoseconds, `busy` at least; None if nothing will ever come in."""
        wake = self._load.next_ns()
        if until is not None:
            wake = until if wake is None else min(wake, until)
        return None if wake is None else max(wake - self.now, busy, 0)

    def _receive(self) -> Inbox:
        arrivals, aborts = self._load.take(self.now)
        inbox = Inbox(self.now, [self._request(arrival) for arrival in arrivals], aborts)
        self._receive_ns = self._host.receive_ns(len(arrivals))
        self._debt += self._receive_ns
        self._planned = False
        self._recorder.received(self.scheduler.iteration + 1, inbox)
        self._stuck.received(len(arrivals), self.scheduler, f", at {self.now} ns")
        return inbox

    def _request(self, arrival: Arrival) -> Request:
        asked = arrival.request
        return Request.asked_for(
            asked,
            ReplayTokens(asked.prompt, asked.output),
            arrival.sent_ns,
            max_new_tokens=self._max_new_tokens,
            ignore_eos=self._ignore_eos,
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

    def _launch(self, batch: Batch) -> Ticket:
        now = self.now
        if batch.mode is Mode.EMPTY:
            duration = 0
        else:
            duration = self._latency.step_ns(_shape(batch))
            self._stuck.launched()
        start, end = self.device.submit(duration)
        self._recorder.launched(batch, now)
        result = self._model.result(batch)
        self._recorder.decided(batch, now, result)
        gauges = self.scheduler.gauges() if self._recorder.wants_steps else None
        self._last = Ticket(batch, result, gauges, self._launch_host, now, start, end)
        return self._last

    def _collect(self, ticket: Ticket) -> StepResult:
        ticket.collect_host_ns = self._host.collect_ns(ticket.batch.items)
        self._debt += ticket.collect_host_ns
        ticket.collected_ns = self.now + self._debt
        self._collected = ticket
        return ticket.result

    def _report(self, events: Events) -> bool:
        """Let clients notice; returns whether any request ended."""
        if events.repeated is not None:
            assert self._leap is not None
            if self._leap.ticket is not None and self._recorder.wants_steps:
                self._leap.ticket.gauges = self.scheduler.gauges()
            self._recorder.leapt(self._leap, events.repeated)
            return False
        if events.batch is not None:
            self._debt += self._host.commit_ns(events.batch.items, len(events.ended))
        now = self.now + self._debt
        self._recorder.events(events, now)
        if events.batch is not None:
            ticket = self._collected
            assert ticket is not None
            self._recorder.committed(ticket, now)
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
    return np.zeros(0, dtype=np.int64)
