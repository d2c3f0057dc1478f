"""The run's clock: integer nanoseconds from its start, on the host's monotonic clock."""

from __future__ import annotations

from time import perf_counter_ns


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
