"""The run's clock: integer nanoseconds from its start, on the host's monotonic clock.

Or on the CPU time that this process was given: a model that runs on the CPU beside other programs then
takes as long as if it had the cores to itself, but for caches, and two runs of it can be compared. While
nothing is to be done such a clock leaps to what comes next. It counts all threads, so what one does beside
another takes time too.
"""

from __future__ import annotations

from time import perf_counter_ns, process_time_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threading import Event


class Clock:
    """Counts from when it is made, or from its last `restart`."""

    __slots__ = ("_origin",)

    def __init__(self) -> None:
        self._origin = perf_counter_ns()

    def restart(self) -> None:
        """Make now the zero of a run. Only while nothing that was told the time is still in use."""
        self._origin = perf_counter_ns()

    def now(self) -> int:
        """Nanoseconds since the start."""
        return perf_counter_ns() - self._origin

    def wait(self, wait_ns: int, stopped: Event) -> bool:
        """Let so much time pass, or less if `stopped` is set; returns whether it is."""
        return stopped.wait(wait_ns / 1e9)


class CpuClock(Clock):
    """Counts the CPU time of this process, and the time that it waited for, which takes none."""

    __slots__ = ()

    def __init__(self) -> None:
        self._origin = process_time_ns()

    def restart(self) -> None:
        """See `Clock.restart`."""
        self._origin = process_time_ns()

    def now(self) -> int:
        """Nanoseconds of CPU time since the start, and those leapt over."""
        return process_time_ns() - self._origin

    def wait(self, wait_ns: int, stopped: Event) -> bool:
        """See `Clock.wait`: at once."""
        self._origin -= wait_ns
        return stopped.is_set()
