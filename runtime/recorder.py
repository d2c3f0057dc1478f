"""The recorder: turns what the runtime does into the rows of a run, the same tables as a simulation's.

What a decode step gives its members is noted with a few array operations over their rows; only members
that begin or leave are looked at one by one. Rows of the decision log stand in the order in which
things were decided: what a batch sampled, known only later, is written where the batch was launched.

It knows no device and no clock: every time is given to it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from traces.records.decisions import batch_rows, inbox_rows, restart_row
from traces.records.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import Events, Inbox
    from policies.request import Request
    from runtime.ticket import Ticket
    from traces.records.writer import RunWriter

    Row = tuple[object, ...]

FLUSH_EVERY = 512  # steps between looks at whether a flush is due


class _Seen:
    """What was noted of a live request."""

    __slots__ = ("first_scheduled", "first_token", "last_token", "row", "times")

    def __init__(self) -> None:
        self.first_scheduled: int | None = None
        self.first_token: int | None = None
        self.last_token: int | None = None  # while it is in no row
        self.row: int | None = None
        self.times: list[int] = []


class Recorder(Recording[_Seen]):
    """Records one run.

    Args:
        writer: where rows go; None where only counts are kept.
        rows: rows that requests may have, from 1.
    """

    def __init__(self, writer: RunWriter | None, rows: int) -> None:
        super().__init__(writer)
        self.retractions = 0
        self.device_busy_ns = 0
        self._writer = writer
        self._last = np.zeros(rows + 1, dtype=np.int64)  # by row: when its last token came
        self._decided: deque[list[Row] | Ticket] = deque()  # in order; tickets that are in flight

    # -- what comes in ------------------------------------------------------------------------

    def received(self, iteration: int, inbox: Inbox) -> None:
        """The world answered a `Receive`; `iteration` is the round it opens."""
        for request in inbox.arrivals:
            self._live.setdefault(request, _Seen())
        if self._want_decisions:
            arrivals = [request.id for request in inbox.arrivals]
            rows = inbox_rows(iteration, inbox.now, arrivals, inbox.aborts, inbox.ready)
            self._decided.append(rows)
            self._write_decided()

    def launched(self, ticket: Ticket) -> None:
        """A batch was put on the device."""
        self._scheduled(ticket.batch, ticket.launch_ns)
        if self._want_decisions:
            self._decided.append(ticket)

    def restarted(self, iteration: int, now_ns: int) -> None:
        """The scheduler begins anew after that round: what was in flight will not be committed."""
        self._evicted = 0
        for seen in self._live.values():
            self._leave_row(seen)
        self._give_up_in_flight()
        if self._want_decisions:
            assert self._writer is not None
            self._writer.decisions.append(restart_row(iteration, now_ns))

    # -- results ------------------------------------------------------------------------------

    def committed(self, ticket: Ticket, commit_ns: int) -> None:
        """A batch's results were accepted, and clients told, at `commit_ns`."""
        self.steps += 1
        self.device_busy_ns += ticket.end_ns - ticket.start_ns
        if self.wants_steps:
            self._step(ticket, commit_ns)
        if self._want_decisions:
            self._decided[self._decided.index(ticket)] = _batch(ticket)
            self._write_decided()
        if self._writer is not None and self.steps % FLUSH_EVERY == 0:
            self._writer.maybe_flush()

    def events(self, events: Events, ticket: Ticket | None, now_ns: int) -> None:
        """Clients notice something at `now_ns`; `ticket` is that of the batch, if there is one."""
        # who is in the batch has first to be given its token; the row of another may be in it again
        later: set[Request] = set()
        self.retractions += len(events.retracted)
        if events.retracted and ticket is not None:
            later = {job.request for job in ticket.jobs}.intersection(events.retracted)
        for request in events.retracted:
            if request not in later:
                self._leave_row(self._live[request])
        if ticket is not None:
            self._tokens(ticket, set(events.dropped), now_ns)
        for request in later:
            self._leave_row(self._live[request])
        for request in events.ended:
            self._end(request, now_ns)

    def _tokens(self, ticket: Ticket, dropped: set[Request], now_ns: int) -> None:
        """Note when each member of a batch got its token, and the gaps since the ones before."""
        first = len(ticket.jobs) - ticket.batch.decode_requests
        rows = ticket.sampled_rows
        for job, row in zip(ticket.jobs[:first], rows[:first].tolist(), strict=True):
            if job.request not in dropped:
                self._prefill_token(self._live[job.request], row, now_ns)
        rows = rows[first:]
        members = ticket.jobs[first:]
        if dropped:
            kept = [i for i, job in enumerate(members) if job.request not in dropped]
            rows, members = rows[kept], tuple(members[i] for i in kept)
        if len(rows):
            self.itl.add_many(now_ns - self._last[rows])
            self._last[rows] = now_ns
        if self._want_times:
            for job in members:
                self._live[job.request].times.append(now_ns)

    def _prefill_token(self, seen: _Seen, row: int, now_ns: int) -> None:
        if seen.first_token is None:
            seen.first_token = now_ns
        elif seen.last_token is not None:
            self.itl.add(now_ns - seen.last_token)
        seen.row = row
        self._last[row] = now_ns
        if self._want_times:
            seen.times.append(now_ns)

    def _leave_row(self, seen: _Seen) -> None:
        if seen.row is not None:
            seen.last_token = int(self._last[seen.row])
            seen.row = None

    def left_behind(self) -> int:
        """See `Recording.left_behind`."""
        left = super().left_behind()
        self._give_up_in_flight()
        return left

    # -- decisions ----------------------------------------------------------------------------

    def _give_up_in_flight(self) -> None:
        """Write what was planned and will not be committed, without what it would have sampled."""
        given_up = ((e if isinstance(e, list) else _batch(e)) for e in self._decided)
        self._decided = deque(given_up)
        self._write_decided()

    def _write_decided(self) -> None:
        while self._decided and isinstance(rows := self._decided[0], list):
            assert self._writer is not None
            self._writer.decisions.extend(rows)
            self._decided.popleft()


def _batch(ticket: Ticket) -> list[Row]:
    """The rows of a batch and its items, with what was sampled for each if that has come back."""
    batch, step = ticket.batch, ticket.step
    stops, tokens = set(ticket.stops), ticket.tokens
    sampled = 0

    def outcome() -> tuple[int | None, bool | None]:
        nonlocal sampled
        index, sampled = sampled, sampled + 1
        return (tokens[index], index in stops) if tokens else (None, None)

    items: list[Row] = []
    for item in batch.prefill:
        result = outcome() if item.samples else (None, None)
        items.append((item.request.id, "prefill", item.row, item.start, item.length, *result))
    if batch.decode is not None:
        assert step is not None
        prefills = len(batch.prefill)
        slots: Sequence[int] = step.rows[prefills:].tolist()
        starts: Sequence[int] = step.starts[prefills:].tolist()
        for request, slot, start in zip(batch.decode.requests, slots, starts, strict=True):
            items.append((request.id, "decode", slot, start, 1, *outcome()))
    return batch_rows(batch.iteration, ticket.launch_ns, items)
