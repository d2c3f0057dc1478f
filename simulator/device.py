"""The device: a server that runs batches one after another, in the order they are launched.

Because it serves in order, when a batch will end is known as soon as it is launched; nothing has to
happen in between, so the device needs no process of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import simpy


class SerialDevice:
    """One stream of a GPU.

    Args:
        env: the simulation's clock, in integer nanoseconds.
    """

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self.free_at_ns = 0
        self.busy_ns = 0

    def catch_up(self, free_at_ns: int, busy_ns: int) -> None:
        """Account for work that was planned elsewhere: until when, and how much of it."""
        self.free_at_ns = free_at_ns
        self.busy_ns += busy_ns

    def submit(self, duration_ns: int) -> tuple[int, int]:
        """Queue work; returns when it starts and ends, in nanoseconds."""
        start = max(int(self._env.now), self.free_at_ns)
        self.free_at_ns = start + duration_ns
        self.busy_ns += duration_ns
        return start, self.free_at_ns
