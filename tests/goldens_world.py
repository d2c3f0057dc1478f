"""The world that recordings of either engine are replayed in.

Its clock counts iterations of the engine's loop, and its model is the recordings' fake one. It can walk,
round by round, or go through as many rounds at once as the scheduler and the recording allow; then
the records of those rounds are made from what `Repeat` leaves behind.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.batch import StepResult
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.batch import Batch, Events, Inbox, Repetition
    from policies.request import Request
    from policies.scheduler import Scheduler

EOS = 2
DUMMY = 7  # what the recordings' fake model emits past a request's end


class ReplayWorld:
    """Drives a scheduler and makes a record of each iteration; what goes into it is the engine's.

    Args:
        scheduler: a scheduler of the recording's policy.
        check: run `check_integrity` after every planning and every commit.
        leap: go through rounds in which nothing is decided at once.

    Attributes:
        leapt: rounds that were gone through at once.
    """

    def __init__(self, scheduler: Scheduler, *, check: bool, leap: bool) -> None:
        self.s = scheduler
        self.check = check
        self.leap = leap
        self.leapt = 0
        self.step = -1
        self.record: dict[str, Any] | None = None
        self.outputs: dict[str, list[int]] = {}
        self.arrivals: dict[int, list[Request]] = defaultdict(list)

    def run(self) -> Iterator[dict[str, Any]]:
        """A record for each iteration that the engine's recordings have."""
        plan = self.s.next_batch
        self.s.next_batch = lambda: self._planned(plan)  # type: ignore[method-assign]
        loop = LOOPS[self.s.config.overlap](self.s)
        answer: Any = None
        while True:
            effect = loop.send(answer)
            answer = None
            match effect:
                case Receive():
                    yield from self._finished_record()
                    answer = self._receive()
                case Launch(batch):
                    answer = batch
                case Collect(batch):
                    answer = self._emit(batch)
                case Report(events) if events.repeated:
                    for part in events.repeated:
                        yield from self._repeated_records(part)
                case Report(events):
                    self._note(events)
                case Repeat(batch, at_most):
                    can_leap = self.leap and at_most > 0
                    answer = self._repeat(batch, at_most) if can_leap else NOT_REPEATED
                    if answer.rounds:
                        yield from self._finished_record()
                case Sleep():
                    yield from self._finished_record()
                    if not self.arrivals:
                        return
                    self.step = min(self.arrivals) - 1
            if self.check:
                self.s.check_integrity()

    def _planned(self, plan: Any) -> Batch | None:
        """Plan, and note what a recording notes of it."""
        raise NotImplementedError

    def _receive(self) -> Inbox:
        """Begin an iteration."""
        raise NotImplementedError

    def _note(self, events: Events) -> None:
        """Note what a recording notes of events."""
        raise NotImplementedError

    def _finished_record(self) -> Iterator[dict[str, Any]]:
        """The record of the iteration that ends, if it is to be compared."""
        raise NotImplementedError

    def _repeated_records(self, done: Repetition) -> Iterator[dict[str, Any]]:
        """The records of rounds that went by at once."""
        raise NotImplementedError

    def _next_event(self) -> int | None:
        """The next iteration in which something comes in, if any does."""
        return min(self.arrivals, default=None)

    def _repeat(self, batch: Batch, at_most: int) -> Repeated:
        """Go through rounds until something comes in, or a result would stop a sequence.

        No further than to the first departure, or to a round that evicts: what a recording says of
        these is compared walked.
        """
        at_most = self.s.batching.at_once(self.s, at_most)
        event = self._next_event()
        if event is not None:
            at_most = min(at_most, event - self.step - 1)
        # under `overlapped` the step in flight is collected first, and the last one stays in flight
        first = 0 if self.s.overlapped else 1
        rounds = 0
        while rounds < at_most and not self._sample(batch.later(first + rounds)).stops:
            rounds += 1
        if rounds == 0:
            return NOT_REPEATED
        self.leapt += rounds
        last = batch.later(rounds)
        return Repeated(rounds, last)

    def _emit(self, batch: Batch) -> StepResult:
        """The result of a batch, as it is collected."""
        return self._sample(batch)

    def _sample(self, batch: Batch) -> StepResult:
        rows = [(i.request, i.seq_len) for i in batch.prefill if i.samples]
        if batch.decode is not None:
            lens = batch.decode.seq_lens().tolist()
            rows += zip(batch.decode.requests, lens, strict=True)
        tokens, stops = [], []
        for i, (request, seq_len) in enumerate(rows):
            at = seq_len - request.prompt_len
            outputs = self.outputs[request.id]
            token = outputs[at] if 0 <= at < len(outputs) else DUMMY
            tokens.append(token)
            if request.state != "finished":
                request.tokens.write(at, token)  # type: ignore[attr-defined]
            if token == EOS and not request.ignore_eos:
                stops.append(i)
        return StepResult(stops, np.array(tokens, dtype=np.int32))
