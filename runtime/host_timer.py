"""How long the host takes for each phase of a round: times from one mark to the next.

It does not know what the phases are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.clock import Clock


class HostTimer:
    """See the module. All in nanoseconds.

    Args:
        clock: the run's.

    Attributes:
        laps: how long the phases of the round going on took, in order.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mark = 0
        self.laps: list[int] = []

    def begin(self) -> int:
        """A round begins, and with it its first phase; returns when."""
        self.laps = []
        self._mark = self._clock.now()
        return self._mark

    def lap(self) -> int:
        """A phase ends, and the next begins; returns when."""
        now = self._clock.now()
        self.laps.append(now - self._mark)
        self._mark = now
        return now
