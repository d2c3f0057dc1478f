"""Leaping: many decode rounds at once, with the times they would have had one by one.

While nobody comes, each round of the loop does the same: the host receives nothing, plans, prepares and
launches the next step, collects the oldest and commits it. So the times of all rounds follow from the
device times of their steps and the host's cost of a round, which is constant for as long as the same
requests decode: a stretch. A member that leaves at the length it asked for begins another.

Under `serial` a round takes what the host and the device take together. Under `overlapped` a step starts
when it is launched and the step before has ended; just then that one is collected, and the next round
follows. So from start to start passes whichever is longer, the host's round or the step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from policies.batch import DecodeRows
    from simulator.device import Ticket
    from simulator.host import HostRound

    Int64Array = npt.NDArray[np.int64]


class Stretch:
    """Rounds that launch steps of the same requests; times in nanoseconds.

    Attributes:
        requests: that decode.
        kv_tokens: sum of their KV lengths in the first step.
        host: what the host spends on each round, but for the commits that end requests.
        begun: when the first round began.
        device: how long the device takes for each round's step: int64, shape (rounds,).
        commit: when each round's commit was, of its own step under `serial`, of the step before under
            `overlapped`: int64, shape (rounds,).
        first: what the host spends on the first round's collecting and on its commit.
        last_ns: what the last commit takes more, where it ends requests.
        commit_ns: when the last commit was.
        step_ns: how long the device takes for the last step.
        end_ns: when it ends.
    """

    __slots__ = (
        "begun",
        "commit",
        "commit_ns",
        "device",
        "end_ns",
        "first",
        "host",
        "kv_tokens",
        "last_ns",
        "requests",
        "step_ns",
    )

    def __init__(
        self,
        requests: int,
        kv_tokens: int,
        host: HostRound,
        begun: int,
        device: Int64Array,
        commit: Int64Array,
        first: tuple[int, int],
        *,
        overlapped: bool,
    ) -> None:
        self.requests = requests
        self.kv_tokens = kv_tokens
        self.host = host
        self.begun = begun
        self.device = device
        self.commit = commit
        self.first = first
        self.last_ns = 0
        self.commit_ns = int(commit[-1])
        self.step_ns = int(device[-1])
        to_commit = sum(first) if len(commit) == 1 else host.to_commit
        self.end_ns = self.commit_ns - to_commit + (self.step_ns if overlapped else 0)

    def end_with(self, more_ns: int) -> None:
        """Let the last commit end requests, which takes it so much longer."""
        self.last_ns = more_ns
        self.commit_ns += more_ns
        self.commit[-1] += more_ns


class Leap:
    """Rounds gone through at once.

    Attributes:
        stretches: at least one; each begins when the one before has ended.
        rows: those of the last stretch, in the step before its first.
        commit: when each round's commit was: int64, shape (rounds,).
        pending: the ticket in flight when the leap began; None under `serial`.
        ticket: the ticket of the last step, where it is still in flight.
        stops: indices of the rows of the last stretch that end by themselves with the last commit.
        aside: requests that run, but are not in the steps.
        waiting: requests in the waiting queue.
    """

    __slots__ = ("aside", "commit", "pending", "rows", "stops", "stretches", "ticket", "waiting")

    def __init__(
        self,
        stretches: list[Stretch],
        rows: DecodeRows,
        pending: Ticket | None,
        stops: Sequence[int],
        aside: int,
        waiting: int,
    ) -> None:
        self.stretches = stretches
        self.rows = rows
        self.commit = stretches[0].commit
        if len(stretches) > 1:
            self.commit = np.concatenate([stretch.commit for stretch in stretches])
        self.pending = pending
        self.stops = stops
        self.aside = aside
        self.waiting = waiting
        self.ticket: Ticket | None = None

    def __len__(self) -> int:
        return len(self.commit)


def serial_commits(begun: int, host: HostRound, device: Int64Array) -> Int64Array:
    """When each round's commit is, under `serial`: int64, shape (rounds,).

    Args:
        begun: when the first round begins.
        host: the host's cost of a round.
        device: the device time of each round's step.
    """
    commit = device + (host.to_launch + host.to_commit)
    commit[0] += begun
    return np.add.accumulate(commit, out=commit)


def overlapped_commits(
    begun: int, host: HostRound, device: Int64Array, pending_ns: int, first: tuple[int, int]
) -> Int64Array:
    """When each round's commit is, under `overlapped`: int64, shape (rounds,).

    Args:
        begun: when the first round begins.
        host: the host's cost of a round.
        device: the device time of each round's step.
        pending_ns: when the step in flight ends.
        first: what the host spends on the first round's collecting and on its commit.
    """
    to_launch, to_commit, first_ns = host.to_launch, host.to_commit, first[0] + first[1]
    commit = np.empty_like(device)  # at first, from start to start
    np.maximum(device[:-1], to_launch + to_commit, out=commit[1:])
    commit[0] = max(begun + to_launch, pending_ns) + to_commit
    if first_ns == to_commit:
        return np.add.accumulate(commit, out=commit)
    if len(commit) > 1:
        commit[1] = max(int(device[0]), to_launch + first_ns)
    np.add.accumulate(commit, out=commit)
    commit[0] += first_ns - to_commit
    return commit


def rounds_before(until: int | None, begun: int, commit: Int64Array) -> int:
    """How many rounds begin before a time: the first at `begun`, each other as the one before commits."""
    if until is None:
        return len(commit)
    return 0 if begun >= until else min(1 + int(commit.searchsorted(until)), len(commit))
