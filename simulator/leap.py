"""Leaping: many decode rounds at once, with the times they would have had one by one.

While nobody comes or ends, each round of the loop does the same: the host receives nothing, plans,
prepares and launches the next step, collects the oldest and commits it. So the times of all rounds
follow from the device times of their steps and the host's cost of a round, which is constant.

Under `serial` a round takes what the host and the device take together. Under `overlapped` a step starts
when it is launched and the step before has ended; just then that one is collected, and the next round
follows. So from start to start passes whichever is longer, the host's round or the step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.scheduler import Gauges
    from simulator.device import Ticket

    Int64Array = npt.NDArray[np.int64]


class HostRound(NamedTuple):
    """What the host spends on a decode round in which nothing changes, by phase, in nanoseconds."""

    receive: int
    schedule: int
    prepare: int
    launch: int
    collect: int
    commit: int

    @property
    def to_launch(self) -> int:
        """From receiving to launching."""
        return self.receive + self.schedule + self.prepare + self.launch

    @property
    def to_commit(self) -> int:
        """From a step's end to its commit."""
        return self.collect + self.commit


class Leap:
    """The times of rounds gone through at once; all int64, shape (rounds,), in nanoseconds.

    Attributes:
        host: what the host spent on each round.
        begun: when the first round began.
        device: how long the device took for each round's step.
        start: when the device began it.
        commit: when the round's commit was: of its own step under `serial`, of the step before under
            `overlapped`.
        gauges: the scheduler's state as the leap began, where it is recorded.
        pending: the ticket in flight when the leap began; None under `serial`.
        ticket: the ticket of the last step, where it is still in flight.
    """

    __slots__ = ("begun", "commit", "device", "gauges", "host", "pending", "start", "ticket")

    def __init__(
        self,
        begun: int,
        host: HostRound,
        device: Int64Array,
        start: Int64Array,
        commit: Int64Array,
        pending: Ticket | None = None,
    ) -> None:
        self.begun = begun
        self.host = host
        self.device = device
        self.start = start
        self.commit = commit
        self.pending = pending
        self.gauges: Gauges | None = None
        self.ticket: Ticket | None = None

    def __len__(self) -> int:
        return len(self.commit)

    @property
    def launch(self) -> Int64Array:
        """When each round's step was launched."""
        begin = np.concatenate([[self.begun], self.commit[:-1]])
        return begin + self.host.to_launch

    @property
    def end(self) -> Int64Array:
        """When the device ended each round's step."""
        return self.start + self.device


def serial_leap(now: int, host: HostRound, device: Int64Array, until: int | None) -> Leap:
    """Rounds under `serial`.

    Args:
        now: when the first round begins.
        host: the host's cost of a round.
        device: the device time of each round's step.
        until: no round may begin at this time or later.
    """
    to_commit = host.to_commit
    commit = device + (host.to_launch + to_commit)
    commit[0] += now
    np.add.accumulate(commit, out=commit)
    rounds = _before(now, commit, until)
    device, commit = device[:rounds], commit[:rounds]
    return Leap(now, host, device, commit - device - to_commit, commit)


def overlapped_leap(
    now: int, host: HostRound, device: Int64Array, until: int | None, pending: Ticket
) -> Leap:
    """Rounds under `overlapped`.

    Args:
        now: when the first round begins.
        host: the host's cost of a round.
        device: the device time of each round's step.
        until: no round may begin at this time or later.
        pending: the ticket in flight.
    """
    to_launch, to_commit = host.to_launch, host.to_commit
    start = np.empty_like(device)
    start[0] = max(now + to_launch, pending.end_ns)
    np.maximum(device[:-1], to_launch + to_commit, out=start[1:])
    np.add.accumulate(start, out=start)
    commit = start + to_commit
    rounds = _before(now, commit, until)
    return Leap(now, host, device[:rounds], start[:rounds], commit[:rounds], pending)


def _before(now: int, commit: Int64Array, until: int | None) -> int:
    """How many rounds begin before a time, each where the one before was committed."""
    if until is None:
        return len(commit)
    return 0 if now >= until else 1 + int(commit[:-1].searchsorted(until))
