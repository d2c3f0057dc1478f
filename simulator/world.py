"""The virtual world: carries out a scheduler's effects in SimPy's time.

One SimPy process is the host. It drives the event loop, and the host's own work, phase by phase, is
charged to it from a model; the device is a separate server, so what overlaps is seen to overlap.
Time is integer nanoseconds; each duration is rounded once, by the model that makes it.

It decides nothing, and knows nothing of how decisions are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from policies.batch import NO_EVENTS, DecodeRows, Inbox, Mode, StepResult
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
    from collections.abc import Callable, Generator, Sequence

    import simpy

    from policies.batch import Batch, Events, Repetition
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
        self.device = SerialDevice()
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
        self._on_round: Callable[[], None] | None = None
        # of each effect: how long it takes (None: for ever), and the answer once that is over
        self._phases: dict[
            type[Effect], tuple[Callable[[Any], int | None], Callable[[Any], Any]]
        ] = {
            Receive: (self._settle, self._receive),
            Launch: (self._charge_launch, self._launch),
            Collect: (self._until_done, self._collect),
            Repeat: (self._until_gone_through, self._gone_through),
            Sleep: (self._until_woken, lambda _: None),
        }

    def run(
        self,
        on_progress: Callable[[], None] | None = None,
        on_round: Callable[[], None] | None = None,
    ) -> None:
        """Run until nothing will come in and nothing is left to do.

        Args:
            on_progress: called each time a request ended.
            on_round: called as each round begins that is not gone through with others; may raise.

        Raises:
            StuckError: where the scheduler has work but plans nothing.
            RefusedError: where a request was refused and the run is strict.
        """
        self._on_round = on_round
        self.clock.run(self.clock.process(self._drive(on_progress)))

    @property
    def now(self) -> int:
        """The time, in nanoseconds."""
        return self.clock.now_ns

    # -- the host process ---------------------------------------------------------------------

    def _drive(self, on_progress: Callable[[], None] | None) -> Generator[simpy.Event, Any, None]:
        send = LOOPS[self.scheduler.config.overlap](self.scheduler).send
        skip, timeout, phases = self.clock.skip, self.clock.timeout, self._phases
        answer: Any = None
        while True:
            effect = send(answer)
            if isinstance(effect, Report):
                answer, events = None, effect.events
                if events is not NO_EVENTS and self._report(events) and on_progress:
                    on_progress()
                continue
            begin, finish = phases[type(effect)]
            delay = begin(effect)
            if delay is None:
                return  # nothing will wake it
            if delay and not skip(delay):
                yield timeout(delay)
            answer = finish(effect)

    def _settle(self, _: Effect | None = None) -> int:
        """Charge what the round going on has not been charged yet; returns what the host owes, in ns.

        It is waited for with the next effect, or else while the device works.
        """
        if not self._planned:  # no batch came of the planning
            self._planned = True
            s = self.scheduler
            self._debt += self._host.schedule_ns(len(s.waiting), len(s.running.requests), 0)
        owed, self._debt = self._debt, 0
        return owed

    def _until_done(self, effect: Collect) -> int:
        """How long to wait for a result, in nanoseconds."""
        ticket: Ticket = effect.ticket
        return max(self._settle(), ticket.end_ns - self.clock.now_ns)

    def _until_woken(self, effect: Sleep) -> int | None:
        """How long to sleep, in nanoseconds; None if nothing will ever come in."""
        busy = self._settle()
        wake = self._load.next_ns()
        if effect.until is not None:
            wake = effect.until if wake is None else min(wake, effect.until)
        return None if wake is None else max(wake - self.now, busy, 0)

    def _until_gone_through(self, effect: Repeat) -> int:
        """How long the rounds of a `Repeat` take, in nanoseconds: they are gone through here."""
        leap = self._leap = self._go_through(effect)
        return 0 if leap is None else leap.stretches[-1].commit_ns - self.clock.now_ns

    def _gone_through(self, _: Repeat) -> Repeated:
        leap = self._leap
        return NOT_REPEATED if leap is None else Repeated(len(leap), leap.ticket, leap.stops)

    def _go_through(self, effect: Repeat) -> Leap | None:
        """Go through many rounds at once; None where that is not worth it."""
        last = self._last
        if self._leaper is None or last is None:
            return None
        leap = self._leaper.plan(effect, self.clock.now_ns + self._debt, last)
        if leap is None:
            return None
        self._debt = 0
        self._recorder.leapt(leap)
        stretch = leap.stretches[-1]
        self.device.catch_up(stretch.end_ns, [part.device for part in leap.stretches])
        if leap.pending is not None:
            rounds, host = len(stretch.commit), stretch.host
            rows = DecodeRows(leap.rows.cohort, leap.rows.round + rounds)
            stops = self._model.stopping(rows)
            begun = int(stretch.commit[-2]) if rounds > 1 else stretch.begun
            times = begun + host.to_launch, stretch.end_ns - stretch.step_ns, stretch.end_ns
            # its batch is the scheduler's to make
            leap.ticket = Ticket(effect.batch, StepResult(stops), None, host[:4], *times)
            self._last = leap.ticket
        return leap

    def _receive(self, _: Receive) -> Inbox:
        if self._on_round is not None:
            self._on_round()
        now = self.clock.now_ns
        sent, aborts = self._load.take(now)
        arrivals = [self._request(arrival) for arrival in sent] if sent else ()
        inbox = Inbox(now, arrivals, aborts)
        self._receive_ns = self._host.receive_ns(len(arrivals))
        self._debt += self._receive_ns
        self._planned = False
        self._recorder.received(self.scheduler.iteration + 1, inbox)
        self._stuck.received(len(arrivals), self.scheduler, now)
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

    def _charge_launch(self, effect: Launch) -> int:
        """Charge the host for a round up to its launch; returns what it owes by now."""
        s, host, batch = self.scheduler, self._host, effect.batch
        prefill = len(batch.prefill)
        schedule = 0  # an overlap strategy from outside may launch twice in a round
        if not self._planned:
            self._planned = True
            schedule = host.schedule_ns(len(s.waiting), len(s.running.requests), prefill)
        new_tokens = batch.prefill_tokens if prefill else 0
        prepare = host.prepare_ns(prefill, new_tokens, batch.decode_requests)
        launch = host.launch_ns()
        self._launch_host = self._receive_ns, schedule, prepare, launch
        owed, self._debt = self._debt + schedule + prepare + launch, 0
        return owed

    def _launch(self, effect: Launch) -> Ticket:
        now, batch = self.clock.now_ns, effect.batch
        duration = 0
        if batch.mode is not Mode.EMPTY:
            duration = self._latency.step_ns(_shape(batch))
            self._stuck.launched()
        start, end = self.device.submit(now, duration)
        recorder = self._recorder
        recorder.launched(batch, now)
        result = self._model.result(batch)
        recorder.decided(batch, now, result)
        gauges = self.scheduler.gauges() if recorder.wants_steps else None
        self._last = Ticket(batch, result, gauges, self._launch_host, now, start, end)
        return self._last

    def _collect(self, effect: Collect) -> StepResult:
        ticket: Ticket = effect.ticket
        host_ns = ticket.collect_host_ns = self._host.collect_ns(ticket.batch.items)
        self._debt += host_ns
        ticket.collected_ns = self.clock.now_ns + self._debt
        self._collected = ticket
        return ticket.result

    def _report(self, events: Events) -> bool:
        """Let clients notice; returns whether any request ended."""
        if events.repeated:
            return self._report_leap(events.repeated)
        batch, ended = events.batch, events.ended
        if batch is not None:
            self._debt += self._host.commit_ns(batch.items, len(ended))
        now = self.clock.now_ns + self._debt
        self._recorder.events(events, now)
        if batch is not None:
            ticket = self._collected
            assert ticket is not None
            self._recorder.committed(ticket, now)
        for request in ended:
            self._end(request, now)
        return bool(ended)

    def _report_leap(self, parts: Sequence[Repetition]) -> bool:
        """Let clients notice what a leap brought; returns whether any request ended."""
        leap = self._leap
        assert leap is not None
        if leap.ticket is not None:
            leap.ticket.batch = parts[-1].batch
        if self._recorder.wants_steps:
            self._recorder.leapt_steps(leap, parts)
        rounds, ended = 0, False
        for part in parts:
            rounds += part.rounds
            if part.ended:
                ended, now = True, int(leap.commit[rounds - 1])
                self._recorder.ended(part.ended, now)
                for request in part.ended:
                    self._end(request, now)
        return ended

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
