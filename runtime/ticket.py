"""A ticket: a batch on its way through the device, and what the host noted of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.batch import Batch
    from policies.scheduler import Gauges
    from runtime.executor import Task
    from runtime.inputs import HostStep
    from runtime.jobs import Job

_NO_ROWS = np.zeros(0, dtype=np.int64)


class Ticket:
    """See the module. Times are nanoseconds of the run's clock.

    Args:
        batch: what was launched.
        task: the step on the device; None for an empty batch.
        jobs: those that sample, in the order of the batch's sampling items.
        gauges: the scheduler's state as the launch left it.
        host: host time of receive, schedule, prepare and launch.
        launch_ns: when it was launched.

    Attributes:
        tokens: the sampled ids, in the order of `jobs`, once collected.
        stops: indices of those that end their sequences.
        start_ns: when the device began it.
        end_ns: when the device ended it.
        collected_ns: when its results were on the host.
        collect_host_ns: host time that went to fetching them, the wait apart.
    """

    __slots__ = (
        "batch",
        "collect_host_ns",
        "collected_ns",
        "end_ns",
        "gauges",
        "host",
        "jobs",
        "launch_ns",
        "start_ns",
        "stops",
        "task",
        "tokens",
    )

    def __init__(
        self,
        batch: Batch,
        task: Task | None,
        jobs: tuple[Job, ...],
        gauges: Gauges,
        host: tuple[int, int, int, int],
        launch_ns: int,
    ) -> None:
        self.batch = batch
        self.task = task
        self.jobs = jobs
        self.gauges = gauges
        self.host = host
        self.launch_ns = launch_ns
        self.tokens: list[int] = []
        self.stops: list[int] = []
        self.start_ns = self.end_ns = launch_ns
        self.collected_ns = 0
        self.collect_host_ns = 0

    @property
    def step(self) -> HostStep | None:
        """The step's inputs; None for an empty batch."""
        return None if self.task is None else self.task.step

    @property
    def sampled_rows(self) -> npt.NDArray[np.int64]:
        """int64, shape (jobs,): the rows that sampled."""
        return _NO_ROWS if self.task is None else self.task.step.sample_rows
