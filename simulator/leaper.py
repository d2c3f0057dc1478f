"""Which rounds the simulated world goes through at once: up to the next thing that could happen.

The scheduler says which rounds it foresees. What it cannot know is the world's: when something comes
in, and which sequence stops by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.batch import DecodeRows
from simulator.leap import Leap, Stretch, overlapped_commits, rounds_before, serial_commits
from simulator.model import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from policies.effects import Repeat
    from policies.scheduler import Scheduler
    from simulator.device import Ticket
    from simulator.host import HostModel, HostRound
    from simulator.latency.base import LatencyModel
    from simulator.model import ReplayedModel
    from traces.load import Load

MOST = 65_536
"""Rounds gone through at once, at most: their times take memory."""

WORTH_LEAPING = 4
"""Fewer rounds than this are walked through in less time than a leap takes to prepare."""


class _Course:
    """Where the rounds gone through so far have led; times in nanoseconds.

    Attributes:
        left: rounds that may still be gone through.
        left_to_stop: rounds up to the one that commits the first stop, that one included.
        rows: of the last stretch, in the step before its first.
        begun: when the next round begins.
        step_ns: how long the device takes for the last step.
        pending_ns: when it ends, where it is in flight.
        first: what the host spends on the next round's collecting and commit, where that ends requests.
    """

    __slots__ = ("begun", "first", "left", "left_to_stop", "pending_ns", "rows", "step_ns")

    def __init__(
        self, left: int, left_to_stop: int, rows: DecodeRows, begun: int, last: Ticket
    ) -> None:
        self.left = left
        self.left_to_stop = left_to_stop
        self.rows = rows
        self.begun = begun
        self.step_ns = last.end_ns - last.start_ns
        self.pending_ns = last.end_ns
        self.first: tuple[int, int] | None = None


class Leaper:
    """See the module. Its arguments are the world's (see `World`)."""

    def __init__(
        self,
        scheduler: Scheduler,
        load: Load,
        latency: LatencyModel,
        host: HostModel,
        model: ReplayedModel,
    ) -> None:
        self._scheduler = scheduler
        self._overlapped = scheduler.overlapped
        self._lag = int(scheduler.overlapped)  # rounds from a step's launch to its commit
        self._load = load
        self._latency = latency
        self._host = host
        self._model = model
        self._ends_matter = load.waits_for_ends

    def plan(self, repeat: Repeat, now: int, last: Ticket) -> Leap | None:
        """The rounds to go through at once, with their times; None where that is not worth it.

        Args:
            repeat: what the scheduler foresees.
            now: when the first of them would begin, ns.
            last: the ticket of the batch launched last.
        """
        rows = repeat.batch.decode
        assert rows is not None
        if last.result.stops and self._overlapped:
            return None
        to_stop = self._model.rounds_to_stop(rows) + self._lag
        most = min(repeat.in_all, to_stop, MOST)
        until = self._load.next_ns()
        if most < WORTH_LEAPING:
            return None
        if until is not None and now + (WORTH_LEAPING - 1) * (last.end_ns - last.start_ns) >= until:
            return None
        at = _Course(most, to_stop, rows, now, last)
        stretches = self._stretches(repeat, at, until)
        if not stretches:
            return None
        s, pending = self._scheduler, last if self._overlapped else None
        stops = () if at.left_to_stop else self._stop(stretches[-1], at.rows)
        aside = len(s.running.requests) - len(rows.requests)  # running, but not in the steps
        return Leap(stretches, at.rows, pending, stops, aside, len(s.waiting))

    def _stretches(self, repeat: Repeat, at: _Course, until: int | None) -> list[Stretch]:
        """The rounds, by who decodes in them."""
        s, rows = self._scheduler, at.rows
        aside = len(s.running.requests) - len(rows.requests)
        departures = _nobody() if repeat.departures is None else repeat.departures()
        stretches: list[Stretch] = []
        while at.left > 0:
            requests = len(rows.requests)
            host = self._host.decode_round(len(s.waiting), requests + aside, requests)
            whole, following = self._reach(rows, next(departures, None), at.left_to_stop)
            stretch = self._stretch(rows, host, min(at.left, whole), at, until)
            done = 0
            if stretch is not None:
                stretches.append(stretch)
                done = len(stretch.commit)
            if following is None or done < whole:
                break
            self._depart(requests - len(following.requests), requests, host, stretch, at)
            rows = DecodeRows(following.cohort, following.round - 1)
        return stretches

    def _reach(
        self, rows: DecodeRows, following: DecodeRows | None, left_to_stop: int
    ) -> tuple[int, DecodeRows | None]:
        """Rounds that launch steps of the same requests, and the rows from there on.

        There are none where the commit that ends members cannot be gone through: nobody remains, or a
        stop comes with it or before (who ends first is the scheduler's to say). The rounds are then
        those before that commit.
        """
        if following is None:
            return NEVER, None
        rounds = following.round - rows.round - 1
        ending = rounds + self._lag  # the round that commits the last step they are in
        if following.requests and ending < left_to_stop:
            return rounds, following
        return ending - 1, None

    def _depart(
        self, ended: int, requests: int, host: HostRound, stretch: Stretch | None, at: _Course
    ) -> None:
        """So many of the requests end: their last step is that of the round gone through last.

        Its own commit takes longer or, under `overlapped`, that of the next round.
        """
        commit_ns = self._host.commit_ns(requests, ended)
        if self._overlapped:
            at.first = host.collect, commit_ns
        else:
            assert stretch is not None
            stretch.end_with(commit_ns - host.commit)
            at.begun = stretch.commit_ns
        if self._ends_matter:  # up to the round that commits them
            at.left = min(at.left, self._lag)

    def _stretch(
        self, rows: DecodeRows, host: HostRound, rounds: int, at: _Course, until: int | None
    ) -> Stretch | None:
        """At most so many rounds of the same requests, and on; None if there is no time for one."""
        overlapped = self._overlapped
        if until is not None:  # look no further than there is time for, by the step before
            on_host = host.to_launch + host.to_commit
            round_ns = max(at.step_ns, on_host) if overlapped else at.step_ns + on_host
            rounds = min(rounds, max(until - at.begun, 0) // max(round_ns, 1) + 1)
        if rounds <= 0:
            return None
        requests = len(rows.requests)
        kv_tokens = rows.kv_tokens + requests
        device = self._latency.decode_steps_ns(requests, kv_tokens, rounds, rows.seq_lens)
        first = at.first or (host.collect, host.commit)
        if overlapped:
            commit = overlapped_commits(at.begun, host, device, at.pending_ns, first)
        else:
            commit = serial_commits(at.begun, host, device)
        done = rounds_before(until, at.begun, commit)
        if not done:
            return None
        self._latency.took(requests, kv_tokens, done)
        device, commit = device[:done], commit[:done]
        stretch = Stretch(
            requests, kv_tokens, host, at.begun, device, commit, first, overlapped=overlapped
        )
        at.rows, at.begun = rows, stretch.commit_ns
        at.step_ns, at.pending_ns = stretch.step_ns, stretch.end_ns
        at.left -= done
        at.left_to_stop -= done
        return stretch

    def _stop(self, stretch: Stretch, rows: DecodeRows) -> Sequence[int]:
        """The last round commits a step in which members may stop: let them end with it."""
        committed = DecodeRows(rows.cohort, rows.round + len(stretch.commit) - self._lag)
        stops = self._model.stopping(committed)
        if stops:
            stretch.end_with(
                self._host.commit_ns(stretch.requests, len(stops)) - stretch.host.commit
            )
        return stops


def _nobody() -> Iterator[DecodeRows]:
    yield from ()
