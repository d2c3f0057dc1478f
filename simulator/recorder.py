"""The recorder: turns what a simulated world does into the rows of a run.

It does no work per token, and in a decode step that changes nothing none per request: token times are
the commit times of decode rounds, so a request's are a slice of one list, and the gap since the round
before is counted once, for all who were in both.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from simulator.leap_rows import LeapRows
from traces.records.decisions import batch_rows, inbox_rows
from traces.records.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.batch import Batch, DecodeRows, Events, Inbox, Repetition, StepResult
    from policies.request import Request
    from simulator.device import Ticket
    from simulator.leap import Leap
    from traces.records.writer import RunWriter

FLUSH_EVERY = 4096  # steps between looks at whether a flush is due
FOLD_ROUNDS = 65_536  # decode rounds held before their gaps are counted


class _Seen:
    """What was noted of a live request. It decodes in stretches of rounds that follow each other."""

    __slots__ = ("before", "first_round", "first_scheduled", "first_token", "last_token", "times")

    def __init__(self) -> None:
        self.first_scheduled: int | None = None
        self.first_token: int | None = None
        self.first_round: int | None = None  # of the stretch it is in
        self.before = 0  # its tokens before that stretch
        self.last_token: int | None = None  # when it was given the last of those
        self.times: list[int] = []  # and when it was given each, where recorded


class Recorder(Recording[_Seen]):
    """Records one run.

    Args:
        writer: where rows go.
    """

    def __init__(self, writer: RunWriter) -> None:
        super().__init__(writer)
        self._writer = writer
        self._rounds = array("q")  # commit time of each decode round, from `_first_round` on
        self._first_round = 0
        self._gap_rows: list[int] = []  # requests that were in a round and in the one before it ...
        self._gap_rounds: list[int] = []  # ... and in so many rounds from there on
        self._uncounted = 0  # rounds whose gaps are held back

    # -- what comes in ------------------------------------------------------------------------

    def received(self, iteration: int, inbox: Inbox) -> None:
        """The world answered a `Receive`; `iteration` is the round it opens."""
        for request in inbox.arrivals:
            self._live[request] = _Seen()
        if self._want_decisions:  # prompt and output are written whole when a request ends
            arrivals = [request.id for request in inbox.arrivals]
            rows = inbox_rows(iteration, inbox.now, arrivals, inbox.aborts, inbox.ready)
            self._writer.decisions.extend(rows)

    def launched(self, batch: Batch, launch_ns: int) -> None:
        """A batch was put on the device."""
        self._scheduled(batch, launch_ns)

    # -- results ------------------------------------------------------------------------------

    def committed(self, ticket: Ticket, commit_ns: int) -> None:
        """A batch's results were accepted, at `commit_ns`."""
        self.steps += 1
        if self.wants_steps:
            self._step(ticket, commit_ns)
            if self.steps % FLUSH_EVERY == 0:
                self._writer.maybe_flush()

    @property
    def wants_decisions(self) -> bool:
        """Whether every batch and its items are to be logged."""
        return self._want_decisions

    def leapt(self, leap: Leap) -> None:
        """Rounds are gone through at once: what `events` notes of tokens, before they are counted."""
        self.steps += len(leap)
        commits, pending = leap.commit, leap.pending
        if pending is not None:  # the first commit is of the step that was in flight
            assert pending.batch.decode is not None
            self._round(pending.batch.decode, set(), int(commits[0]), accepted=0)
            commits = commits[1:]
        self._rounds.frombytes(commits.tobytes())
        self._gap_rows += [stretch.requests for stretch in leap.stretches]
        self._gap_rounds += [len(stretch.commit) for stretch in leap.stretches]
        if pending is not None:  # and the last step still is
            self._gap_rounds[-1] -= 1
        self._uncounted += len(commits)
        if self._uncounted >= FOLD_ROUNDS:
            self.fold_gaps()

    def leapt_steps(self, leap: Leap, parts: Sequence[Repetition]) -> None:
        """The rows of the steps that a leap commits, as `committed` writes them one by one.

        Args:
            leap: the rounds' times.
            parts: the scheduler's account of them.
        """
        if leap.pending is not None:
            pending, (collect, commit) = leap.pending, leap.stretches[0].first
            committed = int(leap.stretches[0].commit[0])
            pending.collect_host_ns, pending.collected_ns = collect, committed - commit
            self._step(pending, committed)
        rows = LeapRows(leap, parts, self._evicted)
        self._evicted = rows.evicted_after
        if leap.ticket is not None:  # the last step is in flight: its row is written later
            leap.ticket.gauges = rows.gauges_after
        if len(rows):
            self._writer.many_steps(rows)
            self._writer.maybe_flush()

    def ended(self, requests: Sequence[Request], now_ns: int) -> None:
        """Requests ended, at `now_ns`."""
        for request in requests:
            self._end(request, now_ns)

    def events(self, events: Events, now_ns: int) -> None:
        """Clients notice something at `now_ns`."""
        batch = events.batch
        if batch is not None:
            dropped = set(events.dropped)
            for item in batch.prefill:
                if item.samples and item.request not in dropped:
                    self._prefill_token(item.request, now_ns)
            if batch.decode is not None:
                self._round(batch.decode, dropped, now_ns)
        for request in events.retracted:
            self._end_stretch(self._live[request], request.output_len)
        self.ended(events.ended, now_ns)

    def _prefill_token(self, request: Request, now_ns: int) -> None:
        seen = self._live[request]
        if seen.first_token is None:
            seen.first_token = now_ns
        elif seen.last_token is not None:
            self.itl.add(now_ns - seen.last_token)
        seen.last_token = now_ns
        if self._want_times:
            seen.times.append(now_ns)

    def _round(
        self, rows: DecodeRows, dropped: set[Request], now_ns: int, accepted: int = 1
    ) -> None:
        """A decode round is committed; so many of its tokens are in the requests' counts already."""
        steady = len(rows.requests)
        joined = rows.joined
        if joined:
            steady -= len(joined)
            for request in joined:
                if request not in dropped:
                    before = request.output_len - accepted
                    self._begin_stretch(request, before, rows.round, now_ns)
        if dropped:
            members = set(rows.requests) - set(joined)
            steady -= len(members & dropped)
        self._rounds.append(now_ns)
        self._gap_rows.append(steady)
        self._gap_rounds.append(1)
        self._uncounted += 1
        if self._uncounted >= FOLD_ROUNDS:
            self.fold_gaps()

    def fold_gaps(self) -> None:
        """Count the gaps held back, and let go of the rounds before everyone's stretch."""
        new = self._uncounted
        if new:
            times = np.array(self._rounds[-new - 1 :], dtype=np.int64)
            if len(times) == new:  # the first round of all follows none
                times = np.concatenate([times[:1], times])
            weights = np.repeat(np.array(self._gap_rows), np.array(self._gap_rounds))
            self.itl.add_many(np.diff(times), weights)
            self._gap_rows.clear()
            self._gap_rounds.clear()
            self._uncounted = 0
        began = (s.first_round for s in self._live.values() if s.first_round is not None)
        last = self._first_round + len(self._rounds) - 1  # the next round's gap needs it
        done = max(min([last, *began]) - self._first_round, 0)
        del self._rounds[:done]
        self._first_round += done

    def _begin_stretch(self, request: Request, before: int, round_: int, now_ns: int) -> None:
        """A request that had `before` tokens was given one in a decode round, and goes on so."""
        seen = self._live[request]
        self._end_stretch(seen, before)
        seen.first_round, seen.before = round_, before
        if seen.last_token is not None:
            self.itl.add(now_ns - seen.last_token)

    def _end_stretch(self, seen: _Seen, tokens: int) -> None:
        """A request with so many tokens so far has left the decode rounds: note when it got them."""
        if seen.first_round is None:
            return
        upto = seen.first_round + tokens - seen.before
        if upto > seen.first_round:
            origin = self._first_round
            seen.last_token = self._rounds[upto - 1 - origin]
            if self._want_times:
                seen.times += self._rounds[seen.first_round - origin : upto - origin]
        seen.first_round = None

    def _complete_times(self, request: Request, seen: _Seen) -> None:
        self._end_stretch(seen, request.output_len)

    def itl_summary(self) -> dict[str, float | int | bool]:
        """See `Recording.itl_summary`."""
        self.fold_gaps()
        return super().itl_summary()

    # -- decisions ----------------------------------------------------------------------------

    def decided(self, batch: Batch, launch_ns: int, result: StepResult) -> None:
        """Log a batch's items and what is sampled for each, as it is launched.

        Later would be too late: members may have left the rows that their places are read from.
        """
        if not self._want_decisions:
            return
        stops, tokens = set(result.stops), result.tokens
        sampled = 0

        def outcome(samples: bool) -> tuple[int | None, bool | None]:
            nonlocal sampled
            if not samples:
                return None, None
            index, sampled = sampled, sampled + 1
            return (None if tokens is None else int(tokens[index])), index in stops

        items: list[tuple[object, ...]] = [
            (i.request.id, "prefill", i.row, i.start, i.length, *outcome(i.samples))
            for i in batch.prefill
        ]
        if batch.decode is not None:
            starts: Sequence[int] = (batch.decode.seq_lens() - 1).tolist()
            slots: Sequence[int] = batch.decode.cohort.rows.tolist()
            items += [
                (request.id, "decode", slot, start, 1, *outcome(samples=True))
                for request, slot, start in zip(batch.decode.requests, slots, starts, strict=True)
            ]
        self._writer.decisions.extend(batch_rows(batch.iteration, launch_ns, items))
