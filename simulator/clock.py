"""The simulation's clock: SimPy's environment, in integer nanoseconds.

A process that waits while nothing else is scheduled need not go through the event queue and back: the
clock may as well be put forward where it stands. A simulation of one replica has one process, so all
its waiting is of that kind; with more, whoever else is scheduled comes first, as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import simpy

if TYPE_CHECKING:
    from collections.abc import Generator


class Clock(simpy.Environment):
    """See the module."""

    @property
    def now_ns(self) -> int:
        """The time. Delays are integers, so it is one (SimPy allows floats)."""
        return self._now  # type: ignore[return-value]

    def skip(self, delay_ns: int) -> bool:
        """Put the clock forward, unless something is scheduled until then; returns whether it was."""
        until = self._now + delay_ns
        if self._queue and self._queue[0][0] <= until:
            return False
        self._now = until
        return True

    def wait(self, delay_ns: int) -> Generator[simpy.Event, None, None]:
        """Wait; for a process: `yield from clock.wait(...)`."""
        if not self.skip(delay_ns):
            yield self.timeout(delay_ns)
