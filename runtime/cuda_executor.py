"""Steps on a CUDA stream: one copy in, kernels, one copy out, and an event that says it is done.

Inputs go over from pinned memory and what was sampled comes back into it; torch's host allocator hands
pinned memory out again only when the copies that use it are done. Events time the steps. They count
from each other, in floats of milliseconds, so the end of each step is reckoned from the one before,
and from the host's clock whenever nothing runs.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch

from runtime.executor import StepError, Task, is_fatal, without_locals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.clock import Clock
    from runtime.forward import Admission, Forward
    from runtime.inputs import HostStep
    from runtime.sampling.sampler import Sampled


class _CudaTask(Task):
    __slots__ = ("begun", "done", "launched_ns")

    def __init__(self, step: HostStep, admissions: Sequence[Admission], launched_ns: int) -> None:
        super().__init__(step, admissions)
        self.begun = _event()
        self.done = _event()
        self.launched_ns = launched_ns


class CudaExecutor:
    """Steps on a CUDA device. See `Executor` and the module.

    Args:
        forward: what a step computes.
        clock: the run's.
    """

    def __init__(self, forward: Forward, clock: Clock) -> None:
        self._forward = forward
        self._clock = clock
        self._device = forward.device
        assert forward.stream is not None, "the model is not on a CUDA device"
        self._stream = forward.stream
        # what was put on other streams before (weights, the KV cache) is there when steps begin
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._anchor = _event()
        self._anchor_ns = 0
        self._end_ns = 0  # of the last step collected
        self.calibrate()

    def buffer(self, size: int) -> torch.Tensor:
        """See `Executor`. Pinned, so that it can be copied without waiting."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def launch(self, step: HostStep, admissions: Sequence[Admission]) -> Task:
        """See `Executor`."""
        task = _CudaTask(step, admissions, self._clock.now())
        try:
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                task.begun.record(self._stream)
                there = step.buffer.to(self._device, non_blocking=True)
                sampled = self._forward(step.on(there), admissions)
                if sampled is not None:
                    task.sampled = _to_host(sampled)
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            task.error = without_locals(error)
        if task.error is None or not is_fatal(task.error):
            task.done.record(self._stream)
        return task

    def collect(self, task: Task) -> Sampled | None:
        """See `Executor`."""
        assert isinstance(task, _CudaTask)
        try:
            if task.error is None or not is_fatal(task.error):
                task.done.synchronize()
        except RuntimeError as error:
            task.error = error
        if task.error is not None:
            if isinstance(task.error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            task.end_ns = self._clock.now()
            raise StepError(task.error)
        self._time(task)
        return task.sampled

    def release(self, row: int) -> None:
        """See `Executor`. Memory that it lets go of is used again by later steps of the same stream."""
        self._forward.release(row)

    def _time(self, task: _CudaTask) -> None:
        """When the step began and ended, by the clock of the run."""
        now = self._clock.now()
        start = self._anchor_ns + _between_ns(self._anchor, task.begun)
        end = self._anchor_ns + _between_ns(self._anchor, task.done)
        # the two clocks drift apart by parts in a million: what is certain stays true
        task.end_ns = min(max(end, task.launched_ns, self._end_ns), now)
        task.start_ns = min(max(start, task.launched_ns, self._end_ns), task.end_ns)
        self._anchor, self._anchor_ns = task.done, min(end, now)
        self._end_ns = task.end_ns

    def calibrate(self) -> None:
        """See `Executor`."""
        event = _event()
        self._stream.synchronize()
        before = self._clock.now()
        event.record(self._stream)
        event.synchronize()
        self._anchor, self._anchor_ns = event, (before + self._clock.now()) // 2

    def close(self) -> None:
        """See `Executor`."""
        with suppress(RuntimeError):  # where the device failed, there is nothing to wait for
            self._stream.synchronize()


def _event() -> torch.cuda.Event:
    make: Any = torch.cuda.Event  # typed in some versions of torch only
    event: torch.cuda.Event = make(enable_timing=True)
    return event


def _between_ns(first: torch.cuda.Event, second: torch.cuda.Event) -> int:
    milliseconds: float = first.elapsed_time(second)
    return round(milliseconds * 1e6)


def _to_host(sampled: Sampled) -> Sampled:
    """The same in pinned memory, once the stream gets there."""
    copies = {}
    for field in fields(sampled):
        value = getattr(sampled, field.name)
        if isinstance(value, torch.Tensor):
            there = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            copies[field.name] = there.copy_(value, non_blocking=True)
    return replace(sampled, **copies)
