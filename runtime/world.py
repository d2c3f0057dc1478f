"""The real world: carries out a scheduler's effects as they come, in real time.

A plain loop drives the event loop of `policies.loops`: it drains what came in, builds a batch's inputs
and hands them to the device, waits for results, writes tokens down, and tells clients. The host's work
is charged by having done it: each phase is timed. Where a step fails, the requests in flight fail and
the rest begin anew (see `policies.recovery`).

It decides nothing, and knows nothing of how decisions are made or of what the device computes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from policies.batch import NO_EVENTS, Events, Inbox, Mode, StepResult
from policies.effects import NOT_REPEATED, Collect, Launch, Receive, Repeat, Report
from policies.loops import LOOPS
from policies.recovery import split_after_failure, start_over
from policies.stuck import StuckGuard
from runtime.executor import StepError
from runtime.forward import Admission
from runtime.host_timer import HostTimer
from runtime.logprobs import note_logprobs
from runtime.ticket import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.batch import Batch, PrefillItem
    from policies.request import Request
    from policies.scheduler import Scheduler
    from runtime.arrivals import Arrivals
    from runtime.clock import Clock
    from runtime.executor import Executor
    from runtime.inputs import InputBuilder
    from runtime.jobs import Job
    from runtime.recorder import Recorder

    Planner = tuple[Scheduler, InputBuilder]

RECALIBRATE_NS = 1_000_000_000
"""An idle device's clock is set by the host's at most once in that time."""


class World:
    """See the module.

    Args:
        plan: makes a scheduler over an empty KV pool, and what builds inputs from its batches. Called
            again after a step failed.
        executor: runs steps.
        arrivals: where jobs come from.
        recorder: notes what happens.
        clock: the run's.
        on_idle: called when nothing is left to do, before waiting.

    Attributes:
        scheduler: the one in use.
        failures: steps that failed.
        last_failure: the last of them.
    """

    def __init__(
        self,
        plan: Callable[[], Planner],
        executor: Executor,
        arrivals: Arrivals,
        recorder: Recorder,
        clock: Clock,
        on_idle: Callable[[Scheduler], None] | None = None,
    ) -> None:
        self._plan = plan
        self.scheduler, self._inputs = plan()
        self._executor = executor
        self._arrivals = arrivals
        self._recorder = recorder
        self._clock = clock
        self._on_idle = on_idle
        self.failures = 0
        self.last_failure: StepError | None = None
        self._jobs: dict[Request, Job] = {}
        self._again: list[Request] = []  # to arrive once more, after a failure
        self._in_flight: deque[Ticket] = deque()
        self._row_of: dict[Request, int] = {}  # of those that the device samples for
        self._in_row: dict[int, Request] = {}
        self._cohort: object = None
        self._members: tuple[Job, ...] = ()  # the jobs of that cohort
        self._stuck = StuckGuard()
        self._calibrated_ns = clock.now()
        self._timer = HostTimer(clock)
        self._collected: Ticket | None = None  # and not yet committed

    def run(self) -> None:
        """Run until nothing will come in and nothing is left to do.

        Raises:
            StepError: where the device cannot be used any more.
            StuckError: where the scheduler has work but plans nothing.
        """
        while True:
            try:
                self._drive()
            except StepError as error:
                if error.fatal:
                    raise
                self._recover(error)
            else:
                return

    def _drive(self) -> None:
        loop = LOOPS[self.scheduler.config.overlap](self.scheduler)
        answer: Any = None
        while True:
            effect = loop.send(answer)
            answer = None
            if isinstance(effect, Receive):
                answer = self._receive()
            elif isinstance(effect, Report):
                self._report(effect.events)
            elif isinstance(effect, Launch):
                answer = self._launch(effect.batch)
            elif isinstance(effect, Collect):
                answer = self._collect(effect.ticket)
            elif isinstance(effect, Repeat):
                answer = NOT_REPEATED
            elif not self._sleep(effect.until):
                return

    # -- coming in ----------------------------------------------------------------------------

    def _receive(self) -> Inbox:
        now = self._timer.begin()
        jobs, aborts = self._arrivals.take(now)
        for job in jobs:
            self._jobs[job.request] = job
        arrivals = [job.request for job in jobs]
        if self._again:
            arrivals, self._again = self._again + arrivals, []
        self._stuck.received(len(arrivals), self.scheduler)
        inbox = Inbox(now, arrivals, aborts)
        self._recorder.received(self.scheduler.iteration + 1, inbox)
        return inbox

    def _sleep(self, until: int | None) -> bool:
        """Wait until something comes in; False if nothing ever will."""
        if self._on_idle is not None:
            self._on_idle(self.scheduler)
        now = self._clock.now()
        if now - self._calibrated_ns > RECALIBRATE_NS:
            self._executor.calibrate()
            self._calibrated_ns = now
        self._stuck = StuckGuard()
        return self._arrivals.wait(until)

    # -- steps --------------------------------------------------------------------------------

    def _launch(self, batch: Batch) -> Ticket:
        self._timer.lap()  # planned
        jobs = self._sampling_jobs(batch)
        step, admissions = None, []
        if batch.mode is not Mode.EMPTY:
            self._stuck.launched()
            step = self._inputs.build(batch)
            admissions = [self._admission(item) for item in batch.prefill if item.samples]
        self._timer.lap()  # prepared
        task = None if step is None else self._executor.launch(step, admissions)
        launched = self._timer.lap()
        receive, schedule, prepare, launch = self._timer.laps
        host = receive, schedule, prepare, launch
        ticket = Ticket(batch, task, jobs, self.scheduler.gauges(), host, launched)
        self._in_flight.append(ticket)
        self._recorder.launched(ticket)
        return ticket

    def _sampling_jobs(self, batch: Batch) -> tuple[Job, ...]:
        jobs = self._jobs
        prefill = tuple(jobs[item.request] for item in batch.prefill if item.samples)
        if batch.decode is None:
            return prefill
        cohort = batch.decode.cohort
        if cohort is not self._cohort:
            self._cohort = cohort
            self._members = tuple(jobs[request] for request in cohort.requests)
        return prefill + self._members if prefill else self._members

    def _admission(self, item: PrefillItem) -> Admission:
        job = self._jobs[item.request]
        self._row_of[item.request] = item.row
        self._in_row[item.row] = item.request
        ids = job.log.read(item.seq_len)
        prompt = job.log.prompt_len
        return Admission(item.row, job.params, ids[:prompt], ids[prompt:], job.seed)

    def _collect(self, ticket: Ticket) -> StepResult:
        before = self._in_flight[0]
        assert ticket is before, "steps are collected in the order of their launch"
        sampled = None if ticket.task is None else self._executor.collect(ticket.task)
        waited = self._clock.now()
        self._in_flight.popleft()
        if ticket.task is not None:
            ticket.start_ns, ticket.end_ns = ticket.task.start_ns, ticket.task.end_ns
        if sampled is not None:
            assert ticket.step is not None
            tokens = ticket.tokens = sampled.tokens.tolist()
            places = ticket.step.sample_positions.tolist()
            triples = zip(ticket.jobs, places, tokens, strict=True)
            ticket.stops = [i for i, (job, at, id_) in enumerate(triples) if job.take(at, id_)]
            if sampled.logprobs is not None:
                note_logprobs(ticket.jobs, places, sampled)
        self._collected = ticket
        ticket.collected_ns = self._clock.now()
        ticket.collect_host_ns = ticket.collected_ns - waited
        return StepResult(ticket.stops)

    # -- telling ------------------------------------------------------------------------------

    def _report(self, events: Events) -> None:
        ticket = None
        now = self._clock.now()
        if events.batch is not None:
            ticket, self._collected = self._collected, None
            assert ticket is not None
            self._tell_tokens(ticket, events, now)
        if events is not NO_EVENTS:
            self._recorder.events(events, ticket, now)
            for request in events.retracted:
                self._leave_row(request)
            for request in events.ended:
                self._end(request, now)
        if ticket is not None:
            self._recorder.committed(ticket, self._clock.now())
        else:
            self._timer.lap()  # received

    def _tell_tokens(self, ticket: Ticket, events: Events, now: int) -> None:
        dropped = set(events.dropped)
        for request in dropped:
            job = self._jobs.get(request)
            if job is not None and job.stop is not None:
                job.stop.restart()  # the token it has seen does not count
        for job in ticket.jobs[: len(ticket.jobs) - ticket.batch.decode_requests]:
            if job.first_token_ns is None and job.request not in dropped:
                job.first_token_ns = now
        for job, token in zip(ticket.jobs, ticket.tokens, strict=True):
            if job.wants_tokens and job.request not in dropped:
                assert job.listener is not None
                job.listener.token(job, token)

    def _end(self, request: Request, now: int) -> None:
        self._leave_row(request)
        job = self._jobs.pop(request)
        self._arrivals.ended(job, now)
        if job.listener is not None:
            job.listener.ended(job, now)

    def _leave_row(self, request: Request) -> None:
        """Have the device forget a request, unless another was admitted to its row meanwhile."""
        row = self._row_of.pop(request, None)
        if row is not None and self._in_row.get(row) is request:
            del self._in_row[row]
            self._executor.release(row)

    # -- when a step fails --------------------------------------------------------------------

    def _recover(self, error: StepError) -> None:
        """Fail the requests in flight, and begin anew with the rest over an empty pool."""
        self.failures += 1
        self.last_failure = error
        batches = [ticket.batch for ticket in self._in_flight]
        for ticket in list(self._in_flight)[1:]:
            if ticket.task is not None:
                self._settle(ticket)
        self._in_flight.clear()
        self._cohort, self._members, self._collected = None, (), None
        failed, rest = split_after_failure(self._jobs, batches, str(error))
        for request in failed:
            if request.refusal == str(error):
                self._jobs[request].error = str(error)
        now = self._clock.now()
        self._recorder.restarted(self.scheduler.iteration, now)
        self._recorder.events(Events(ended=tuple(failed)), None, now)
        for request in failed:
            self._end(request, now)
        for request in rest:
            self._leave_row(request)
        before = self.scheduler
        self.scheduler, self._inputs = self._plan()
        self.scheduler.iteration = before.iteration
        self._again = [start_over(request) for request in rest]

    def _settle(self, ticket: Ticket) -> None:
        """Wait for a step whose result is not wanted any more."""
        assert ticket.task is not None
        try:
            self._executor.collect(ticket.task)
        except StepError as error:
            if error.fatal:
                raise
