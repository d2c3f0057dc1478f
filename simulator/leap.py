"""Leaping: many decode rounds at once, with the times they would have had one by one.

While nobody comes or ends, each round of the loop does the same: the host receives nothing, plans,
prepares and launches the next step, collects the oldest and commits it. So the times of all rounds
follow from the device times of their steps and the host's cost of a round, which is constant.

Under `serial` a round takes what the host and the device take together. Under `overlapped` a step starts
when it is launched and the step before has ended; just then that one is collected, and the next round
follows. So from start to start passes whichever is longer, the host's round or the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.scheduler import Gauges
    from simulator.world import Ticket

    Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HostRound:
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


@dataclass(frozen=True, slots=True)
class Leap:
    """The times of rounds gone through at once; all int64, shape (rounds,), in nanoseconds.

    Attributes:
        host: what the host spent on each round.
        launch: when each round's step was launched.
        start: when the device began it.
        end: when the device ended it.
        commit: when the round's commit was: of its own step under `serial`, of the step before under
            `overlapped`.
        gauges: the scheduler's state as the leap began.
        pending: the ticket in flight when the leap began; None under `serial`.
        ticket: the ticket of the last step, where it is still in flight.
    """

    host: HostRound
    launch: Int64Array
    start: Int64Array
    end: Int64Array
    commit: Int64Array
    gauges: Gauges
    pending: Ticket | None = None
    ticket: Ticket | None = None

    def __len__(self) -> int:
        return len(self.launch)


def serial_leap(
    now: int, host: HostRound, device: Int64Array, until: int | None, gauges: Gauges
) -> Leap:
    """Rounds under `serial`.

    Args:
        now: when the first round begins.
        host: the host's cost of a round.
        device: the device time of each round's step.
        until: no round may begin at this time or later.
        gauges: the scheduler's state.
    """
    commit = now + np.cumsum(device + (host.to_launch + host.to_commit))
    begin = np.concatenate([[now], commit[:-1]])
    rounds = _before(begin, until)
    launch = begin[:rounds] + host.to_launch
    return Leap(host, launch, launch, launch + device[:rounds], commit[:rounds], gauges)


def overlapped_leap(
    now: int,
    host: HostRound,
    device: Int64Array,
    until: int | None,
    gauges: Gauges,
    pending: Ticket,
) -> Leap:
    """Rounds under `overlapped`.

    Args:
        now: when the first round begins.
        host: the host's cost of a round.
        device: the device time of each round's step.
        until: no round may begin at this time or later.
        gauges: the scheduler's state.
        pending: the ticket in flight.
    """
    first = max(now + host.to_launch, pending.end_ns)
    steps = np.maximum(device[:-1], host.to_launch + host.to_commit)
    start = first + np.concatenate([[0], np.cumsum(steps)])
    commit = start + host.to_commit
    begin = np.concatenate([[now], commit[:-1]])
    rounds = _before(begin, until)
    start = start[:rounds]
    end = start + device[:rounds]
    launch = begin[:rounds] + host.to_launch
    return Leap(host, launch, start, end, commit[:rounds], gauges, pending)


def _before(begin: Int64Array, until: int | None) -> int:
    """How many rounds begin before a time."""
    return len(begin) if until is None else int(np.searchsorted(begin, until, side="left"))
