"""The device: a server that runs batches one after another, in the order they are launched.

Because it serves in order, when a batch will end is known as soon as it is launched; nothing has to
happen in between, so the device needs no process of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from policies.batch import Batch, StepResult
    from policies.scheduler import Gauges


class Ticket:
    """A batch on the device: its times in nanoseconds, and what the host spent on it by phase."""

    __slots__ = (
        "batch",
        "collect_host_ns",
        "collected_ns",
        "end_ns",
        "gauges",
        "host",
        "launch_ns",
        "result",
        "start_ns",
    )

    def __init__(
        self,
        batch: Batch,
        result: StepResult,
        gauges: Gauges | None,
        host: tuple[int, int, int, int],
        launch_ns: int,
        start_ns: int,
        end_ns: int,
    ) -> None:
        self.batch = batch
        self.result = result
        self.gauges = gauges  # the scheduler's state as it was launched, where that is recorded
        self.host = host  # receive, schedule, prepare, launch
        self.launch_ns = launch_ns
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.collected_ns = 0  # when its result was on the host
        self.collect_host_ns = 0


class SerialDevice:
    """One stream of a GPU.

    Attributes:
        free_at_ns: when what was submitted will be done.
        busy_ns: how long it works in all for what it was given.
    """

    def __init__(self) -> None:
        self.free_at_ns = 0
        self.busy_ns = 0

    def catch_up(self, free_at_ns: int, work_ns: Iterable[npt.NDArray[np.int64]]) -> None:
        """Account for work that was planned elsewhere: until when, and how much of it."""
        self.free_at_ns = free_at_ns
        self.busy_ns += sum([int(np.add.reduce(work)) for work in work_ns])

    def submit(self, now_ns: int, duration_ns: int) -> tuple[int, int]:
        """Queue work; returns when it starts and ends, in nanoseconds."""
        start = max(self.free_at_ns, now_ns)
        end = self.free_at_ns = start + duration_ns
        self.busy_ns += duration_ns
        return start, end
