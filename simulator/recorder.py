"""The recorder: turns what a simulated world does into the rows of a run.

It does no work per token, and in a decode step that changes nothing none per request: token times are
the commit times of decode rounds, so a request's are a slice of one list, and the gap since the round
before is counted once, for all who were in both.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from traces.records.blocks import Block, Linear
from traces.records.decisions import batch_rows, inbox_rows
from traces.records.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from policies.batch import Batch, DecodeRows, Events, Inbox, Repetition, StepResult
    from policies.request import Request
    from simulator.device import Ticket
    from simulator.leap import Leap
    from traces.records.writer import RunWriter

FLUSH_EVERY = 4096  # steps between looks at whether a flush is due


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
        self._rounds = array("q")  # commit time of each decode round

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

    def leapt(self, leap: Leap, repeated: Repetition) -> None:
        """Rounds went by at once: the same rows as `committed` and `events` make one by one."""
        rows = repeated.batch.decode
        assert rows is not None
        times = leap.commit
        of_steps, commits = slice(None), times
        if leap.pending is not None:  # the first commit is of the step that was in flight
            pending, first = leap.pending, int(times[0])
            assert pending.batch.decode is not None
            self._round(pending.batch.decode, set(), first, len(times) - 1)
            pending.collect_host_ns = leap.host.collect
            pending.collected_ns = first - leap.host.commit
            self.committed(pending, first)
            of_steps, commits = slice(-1), times[1:]  # and the last step still is
        if not len(commits):
            return
        self.steps += len(commits)
        if self.wants_steps:
            self._steps(leap, repeated, of_steps, commits)
            self._writer.maybe_flush()
        gaps = np.empty_like(commits)
        gaps[0] = commits[0] - self._rounds[-1]
        np.subtract(commits[1:], commits[:-1], out=gaps[1:])
        self.itl.add_many(gaps, len(rows))
        self._rounds.frombytes(commits.tobytes())

    def _steps(
        self, leap: Leap, repeated: Repetition, rounds: slice, commit_ns: npt.NDArray[np.int64]
    ) -> None:
        """The rows of a leap's rounds, as `_step` makes them."""
        batch, host, gauges = repeated.batch, leap.host, leap.gauges
        assert batch.decode is not None
        assert gauges is not None
        requests, count = len(batch.decode), len(commit_ns)
        earlier = repeated.rounds - 1  # rounds before the last
        kv_tokens = Linear(batch.decode.kv_tokens - requests * earlier, requests)
        states = repeated.states()
        ratio, free, evictable, protected, evicted = (
            state[rounds] if isinstance(state, np.ndarray) else state for state in states
        )
        new = np.diff(evicted, prepend=self._evicted) if isinstance(evicted, np.ndarray) else 0
        if isinstance(evicted, np.ndarray):
            self._evicted = int(evicted[-1])
        columns = (
            Linear(batch.iteration - earlier, 1),
            batch.mode.value,
            leap.launch[rounds],
            leap.start[rounds],
            leap.end[rounds],
            commit_ns,
            *host,
            *(0, 0, 0, requests, kv_tokens, kv_tokens),
            ratio,
            gauges.waiting,
            gauges.running,
            free,
            evictable,
            protected,
            new,
        )
        self._writer.many_steps(Block(count, columns))

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
        for request in events.ended:
            self._end(request, now_ns)

    def _prefill_token(self, request: Request, now_ns: int) -> None:
        seen = self._live[request]
        if seen.first_token is None:
            seen.first_token = now_ns
        elif seen.last_token is not None:
            self.itl.add(now_ns - seen.last_token)
        seen.last_token = now_ns
        if self._want_times:
            seen.times.append(now_ns)

    def _round(self, rows: DecodeRows, dropped: set[Request], now_ns: int, later: int = 0) -> None:
        """A decode round was committed, and `later` more rounds since."""
        steady = len(rows)
        joined = rows.joined
        if joined:
            steady -= len(joined)
            for request in joined:
                if request not in dropped:
                    self._begin_stretch(request, request.output_len - 1 - later, rows.round, now_ns)
        if dropped:
            members = set(rows.requests) - set(joined)
            steady -= len(members & dropped)
        if steady:
            self.itl.add(now_ns - self._rounds[-1], steady)
        self._rounds.append(now_ns)

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
            seen.last_token = self._rounds[upto - 1]
            if self._want_times:
                seen.times += self._rounds[seen.first_round : upto]
        seen.first_round = None

    def _complete_times(self, request: Request, seen: _Seen) -> None:
        self._end_stretch(seen, request.output_len)

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
