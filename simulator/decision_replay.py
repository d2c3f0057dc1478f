"""The smallest world: it answers a scheduler with what a run recorded, and compares what it plans.

Nothing takes time here and nothing is sampled: an inbox, a step's tokens and its stops come from the
decision log of a run, of whichever world. What the scheduler then plans, item by item, and how its
requests end, must be what was recorded. It knows neither who recorded the run nor why anything was
decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from policies.batch import Inbox, StepResult
from policies.effects import NOT_REPEATED, Collect, Launch, Receive, Repeat, Report
from policies.loops import LOOPS
from policies.recovery import split_after_failure, start_over
from policies.request import FinishReason, Request
from policies.tokens import TokenLog
from traces.records.decisions import Item, Launched, Received, Restarted

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator, Mapping

    from policies.batch import Batch, Events
    from policies.scheduler import Scheduler
    from traces.records.decisions import Asked, Entry

SHOWN = 8
"""Items of a batch that a message names."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a scheduler did something else than was recorded.

    Attributes:
        iteration: the round.
        why: what is different.
        planned: what the scheduler does now.
        recorded: what it did in the run.
        state: of the scheduler, in a line.
    """

    iteration: int
    why: str
    planned: str
    recorded: str
    state: str

    def __str__(self) -> str:
        lines = (f"planned:  {self.planned}", f"recorded: {self.recorded}", f"state: {self.state}")
        return f"round {self.iteration}: {self.why}" + "".join(f"\n  {line}" for line in lines)


class _EndError(Exception):
    """Nothing is left to be compared: a difference was found, or the records end."""

    def __init__(self, difference: Difference | None = None, note: str | None = None) -> None:
        super().__init__()
        self.difference = difference
        self.note = note


class _StepFailedError(Exception):
    """The step that is waited for failed in the run, and its scheduler began anew."""


class _Ticket(NamedTuple):
    batch: Batch
    items: tuple[Item, ...]


class DecisionReplay:
    """See the module.

    Args:
        make: makes a scheduler as it was when the run began.
        entries: the run's decision log.
        asked: what its requests asked for, by id, each id's in order.
        complete: whether the run came to its end; what a run that was cut off did not write down is
            no difference.

    Attributes:
        steps: batches that were planned as recorded.
        requests: that came in.
        note: why not all of the run was gone through; None where it was.
    """

    def __init__(
        self,
        make: Callable[[], Scheduler],
        entries: Iterator[Entry],
        asked: Mapping[str, deque[Asked]],
        *,
        complete: bool,
    ) -> None:
        self.steps = 0
        self.requests = 0
        self.note: str | None = None
        self._make = make
        self._scheduler = make()
        self._entries = entries
        self._next = next(entries, None)
        self._asked = asked
        self._complete = complete
        self._live: dict[str, tuple[Request, Asked]] = {}
        self._again: dict[str, Request] = {}  # those who come in once more, after a failure

    def run(self) -> Difference | None:
        """Go through the whole log; returns the first difference, if there is one."""
        while True:
            try:
                try:
                    self._drive()
                except _StepFailedError:
                    self._begin_anew()
            except _EndError as end:
                self.note = end.note
                return end.difference
            except (IndexError, ValueError) as error:  # it was told what cannot have happened
                why = "the scheduler cannot have been told this"
                return self._difference(why, str(error), "the run went on")

    def _drive(self) -> NoReturn:
        loop = LOOPS[self._scheduler.config.overlap](self._scheduler)
        answer: Any = None
        while True:
            effect = loop.send(answer)
            answer = None
            if isinstance(effect, Report):
                self._report(effect.events)
            elif isinstance(effect, Receive):
                answer = self._receive()
            elif isinstance(effect, Launch):
                answer = self._launch(effect.batch)
            elif isinstance(effect, Collect):
                answer = self._collect(effect.ticket)
            elif isinstance(effect, Repeat):
                answer = NOT_REPEATED

    # -- coming in ----------------------------------------------------------------------------

    def _receive(self) -> Inbox:
        entry, round_ = self._take(), self._scheduler.iteration + 1
        if entry is None:
            if self._complete and self._scheduler.live:
                left = ", ".join(r.id for r in self._scheduler.live_requests())
                self._differ("the run ended here, and requests are left", left, "none are left")
            raise _EndError
        if isinstance(entry, Launched):
            why = "no batch was planned where one was recorded"
            self._differ(why, "nothing", _batch_said(entry.items), entry.iteration)
        assert isinstance(entry, Received)
        if entry.iteration != round_:
            why = "rounds went by in which nothing was planned, and not as many as recorded"
            self._differ(why, f"round {round_} opens", f"round {entry.iteration} opened")
        arrivals = [self._come_in(name) for name in entry.arrivals]
        return Inbox(entry.time_ns, arrivals, entry.aborts, entry.ready)

    def _come_in(self, name: str) -> Request:
        if name in self._again:
            return self._again.pop(name)
        queue = self._asked.get(name)
        if not queue:
            note = f"request {name} came in, and what it asked for was not written"
            if not self._complete:
                raise _EndError(note=f"the run was cut off: {note}")
            self._differ(note, f"{name} comes in", "no such row in table tokens")
        asked = queue.popleft()
        self.requests += 1
        request = _request(asked, TokenLog(asked.prompt))
        self._live[name] = request, asked
        return request

    # -- steps --------------------------------------------------------------------------------

    def _launch(self, batch: Batch) -> _Ticket:
        planned = _items(batch)
        entry = self._take()
        if entry is None and not self._complete:
            raise _EndError
        if not isinstance(entry, Launched):
            why = "a batch was planned where none was recorded"
            self._differ(why, _batch_said(planned), "nothing")
        self._compare(batch, planned, entry)
        self.steps += 1
        return _Ticket(batch, entry.items)

    def _compare(self, batch: Batch, planned: list[Item], entry: Launched) -> None:
        recorded = entry.items
        if batch.iteration != entry.iteration:
            why = f"a batch was planned in this round, and recorded in round {entry.iteration}"
            self._differ(why, _batch_said(planned), _batch_said(recorded))
        count = min(len(planned), len(recorded))
        for i in range(count):
            if planned[i].place != recorded[i].place:
                why = f"item {i + 1} of {len(planned)} in the batch is another"
                self._differ(why, _item_said(planned[i]), _item_said(recorded[i]))
        if len(planned) != len(recorded):
            why = f"{len(planned)} items in the batch, {len(recorded)} recorded"
            self._differ(why, _batch_said(planned[count:]), _batch_said(recorded[count:]))

    def _collect(self, ticket: _Ticket) -> StepResult:
        if isinstance(self._next, Restarted):
            raise _StepFailedError
        came_back = [item for item in ticket.items if item.stop is not None]
        samples = _samples(ticket.batch)
        if any(samples) and not came_back and not self._complete:
            raise _EndError
        for item, expected in zip(ticket.items, samples, strict=True):
            if expected != (item.stop is not None):
                said = {True: f"{item.request_id} samples", False: f"{item.request_id} does not"}
                why = "the end of a prompt is another"
                self._differ(why, said[expected], said[not expected], ticket.batch.iteration)
        requests = [item.request for item in ticket.batch.prefill]
        if ticket.batch.decode is not None:
            requests += ticket.batch.decode.requests
        for item, request in zip(ticket.items, requests, strict=True):
            if item.token is not None:
                log = request.tokens
                assert isinstance(log, TokenLog)
                log.write(item.start + item.length - request.prompt_len, item.token)
        stops = [i for i, item in enumerate(came_back) if item.stop]
        return StepResult(stops)

    # -- ends ---------------------------------------------------------------------------------

    def _report(self, events: Events) -> None:
        for request in events.ended:
            self._end(request, request.finish_reason)

    def _end(self, request: Request, reason: FinishReason | None) -> None:
        asked = self._live.pop(request.id)[1]
        if asked.finish_reason is None:  # the run ended before it could say so
            return
        ended = (reason, request.output_len, request.cached_tokens)
        recorded = (asked.finish_reason, len(asked.output), asked.cached_tokens)
        if (*ended, request.retractions) != (*recorded, asked.retractions):
            self._differ(
                f"request {request.id} ends otherwise",
                _end_said(*ended, request.retractions),
                _end_said(*recorded, asked.retractions),
            )
        prompt = request.prompt_len
        output = request.tokens.read(prompt + request.output_len)[prompt:]
        different = np.flatnonzero(output != asked.output)
        if len(different):
            at = int(different[0])
            self._differ(
                f"output token {at + 1} of request {request.id} is another",
                f"{output[at]} was sampled, by the decision log",
                f"{asked.output[at]} in table tokens",
            )

    # -- when a step failed -------------------------------------------------------------------

    def _begin_anew(self) -> None:
        """Those in flight failed with the step; the others come in again, over an empty pool."""
        restarted, before = self._take(), self._scheduler
        assert isinstance(restarted, Restarted)
        self._scheduler = self._make()
        self._scheduler.iteration = restarted.iteration
        live = [request for request, _ in self._live.values()]
        ended, rest = split_after_failure(live, before.launched, "the step failed")
        for request in ended:
            self._end(request, request.finish_reason)
        self._again |= {request.id: start_over(request) for request in rest}

    # -- the log ------------------------------------------------------------------------------

    def _take(self) -> Entry | None:
        entry, self._next = self._next, next(self._entries, None)
        return entry

    def _difference(
        self, why: str, planned: str, recorded: str, iteration: int | None = None
    ) -> Difference:
        s = self._scheduler
        at = s.iteration if iteration is None else iteration
        return Difference(at, why, planned, recorded, s.describe())

    def _differ(
        self, why: str, planned: str, recorded: str, iteration: int | None = None
    ) -> NoReturn:
        raise _EndError(self._difference(why, planned, recorded, iteration))


def _request(asked: Asked, tokens: TokenLog) -> Request:
    """A request as it came in."""
    namespace = asked.extra_key
    if asked.lora_id is not None and namespace is not None:
        namespace = namespace.removesuffix(f"\0{asked.lora_id}")  # it is put there again
    return Request(
        asked.id,
        tokens,
        asked.max_new_tokens,
        asked.arrival_ns,
        ignore_eos=asked.ignore_eos,
        priority=asked.priority,
        extra_key=namespace,
        routing_key=asked.routing_key,
        lora_id=asked.lora_id,
        tenant=asked.tenant,
        session=asked.session,
    )


def _items(batch: Batch) -> list[Item]:
    """The items that were planned."""
    items = [Item(i.request.id, "prefill", i.row, i.start, i.length) for i in batch.prefill]
    if batch.decode is not None:
        rows, ends = batch.decode.cohort.rows.tolist(), batch.decode.seq_lens().tolist()
        for request, row, end in zip(batch.decode.requests, rows, ends, strict=True):
            items.append(Item(request.id, "decode", row, end - 1, 1))
    return items


def _samples(batch: Batch) -> list[bool]:
    """Whether each item samples."""
    return [item.samples for item in batch.prefill] + [True] * batch.decode_requests


def _item_said(item: Item) -> str:
    return (
        f"{item.kind} of {item.request_id}, tokens [{item.start}, {item.start + item.length}), in "
        f"row {item.row}"
    )


def _batch_said(items: list[Item] | tuple[Item, ...]) -> str:
    if not items:
        return "a batch without items"
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(_item_said(item) for item in items[:SHOWN]) + more


def _end_said(reason: object, output: int, cached: int, retractions: int) -> str:
    return f"{reason} after {output} tokens, {cached} of its prompt cached, retracted {retractions} times"
