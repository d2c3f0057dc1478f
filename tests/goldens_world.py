"""The world that recordings of either engine are replayed in.

Its clock counts iterations of the engine's loop, and its model is the recordings' fake one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.batch import StepResult
from policies.effects import NOT_REPEATED, Collect, Launch, Receive, Repeat, Report, Sleep
from policies.loops import LOOPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.batch import Batch, Events, Inbox
    from policies.request import Request
    from policies.scheduler import Scheduler

EOS = 2
DUMMY = 7  # what the recordings' fake model emits past a request's end


class ReplayWorld:
    """Drives a scheduler and makes a record of each iteration; what goes into it is the engine's.

    Args:
        scheduler: a scheduler of the recording's policy.
        check: run `check_integrity` after every planning and every commit.
    """

    def __init__(self, scheduler: Scheduler, *, check: bool) -> None:
        self.s = scheduler
        self.check = check
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
                case Report(events):
                    self._note(events)
                case Repeat():
                    answer = NOT_REPEATED
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

    def _emit(self, batch: Batch) -> StepResult:
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
