"""The device's end of a step: launched without waiting, run in order, collected later.

On the CPU one worker thread runs the steps, first in first out; on CUDA one stream does. A step that
fails, at its launch or on the device, says so when it is collected, so nothing that waits for it
hangs. Times are the device's own, on the run's clock.

It knows neither requests nor what a step computes.
"""

from __future__ import annotations

import traceback
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.clock import Clock
    from runtime.forward import Admission, Forward
    from runtime.inputs import HostStep
    from runtime.sampling.sampler import Sampled


class StepError(RuntimeError):
    """A step failed on the device.

    Attributes:
        fatal: whether the device cannot be used any more.
    """

    def __init__(self, cause: BaseException) -> None:
        self.fatal = is_fatal(cause)
        said = str(cause).strip().partition("\n")[0]
        if isinstance(cause, torch.OutOfMemoryError):
            super().__init__(
                f"the device ran out of memory in a step ({said}): give KV less of it "
                "(kv.mem_fraction), or make steps smaller (policy.chunked_prefill_size, "
                "policy.batching_options.max_num_batched_tokens)"
            )
        else:
            super().__init__(f"a step failed on the device: {type(cause).__name__}: {said}")
        self.__cause__ = cause


def is_fatal(cause: BaseException) -> bool:
    """Whether an error leaves the device unusable: CUDA's own do, running out of memory does not."""
    return isinstance(cause, torch.AcceleratorError)


def without_locals(error: BaseException) -> BaseException:
    """The error, its frames emptied: they would keep a failed step's tensors in memory."""
    traceback.clear_frames(error.__traceback__)
    return error


class Task:
    """A step handed to the device; its times are known once it was collected."""

    __slots__ = ("admissions", "end_ns", "error", "sampled", "start_ns", "step")

    def __init__(self, step: HostStep, admissions: Sequence[Admission]) -> None:
        self.step = step
        self.admissions = admissions
        self.sampled: Sampled | None = None
        self.error: BaseException | None = None
        self.start_ns = 0
        self.end_ns = 0


class Executor(Protocol):
    """Runs steps in the order they are launched in."""

    def buffer(self, size: int) -> torch.Tensor:
        """A uint8 tensor of `size` bytes on the host for a step's inputs."""
        ...

    def launch(self, step: HostStep, admissions: Sequence[Admission]) -> Task:
        """Hand a step to the device. Does not wait, and does not raise what the step raises."""
        ...

    def collect(self, task: Task) -> Sampled | None:
        """Wait for a step; tasks are collected in the order of their launch.

        Returns:
            what was sampled, on the CPU; None where nothing was.

        Raises:
            StepError: where the step failed.
        """
        ...

    def release(self, row: int) -> None:
        """The request in a row has left: forget it, after the steps launched before. Does not wait."""
        ...

    def calibrate(self) -> None:
        """Set the device's clock by the host's. Called while nothing is in flight."""
        ...

    def close(self) -> None:
        """Finish what was launched, and let go of threads. May be called twice."""
        ...


class _CpuTask(Task):
    __slots__ = ("done",)

    def __init__(self, step: HostStep, admissions: Sequence[Admission]) -> None:
        super().__init__(step, admissions)
        self.done = Event()


class CpuExecutor:
    """Steps on the CPU, in a worker thread. See `Executor`.

    Args:
        forward: what a step computes.
        clock: the run's.
    """

    def __init__(self, forward: Forward, clock: Clock) -> None:
        self._forward = forward
        self._clock = clock
        self._queue: SimpleQueue[_CpuTask | int | None] = SimpleQueue()  # an int: a row to release
        self._threads = torch.get_num_threads()
        self._closed = False
        self._worker: Thread | None = None  # started by the first launch

    def buffer(self, size: int) -> torch.Tensor:
        """See `Executor`. A new one: the worker reads it where it is."""
        return torch.empty(size, dtype=torch.uint8)

    def launch(self, step: HostStep, admissions: Sequence[Admission]) -> Task:
        """See `Executor`."""
        task = _CpuTask(step, admissions)
        if self._closed:
            raise RuntimeError("launched on an executor that is closed")
        if self._worker is None:
            self._worker = Thread(target=self._work, name="runtime-device", daemon=True)
            self._worker.start()
        self._queue.put(task)
        return task

    def collect(self, task: Task) -> Sampled | None:
        """See `Executor`."""
        assert isinstance(task, _CpuTask)
        task.done.wait()
        if task.error is not None:
            raise StepError(task.error)
        return task.sampled

    def release(self, row: int) -> None:
        """See `Executor`."""
        if self._worker is not None:
            self._queue.put(row)

    def calibrate(self) -> None:
        """See `Executor`: there is one clock."""

    def close(self) -> None:
        """See `Executor`."""
        self._closed = True
        if self._worker is not None:
            self._queue.put(None)
            self._worker.join()
            self._worker = None

    def _work(self) -> None:
        torch.set_num_threads(self._threads)  # is a setting of each thread
        while (task := self._queue.get()) is not None:
            if isinstance(task, int):
                self._forward.release(task)
                continue
            task.start_ns = self._clock.now()
            try:
                with torch.inference_mode():
                    task.sampled = self._forward(task.step.on(task.step.buffer), task.admissions)
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                task.error = without_locals(error)
            task.end_ns = self._clock.now()
            task.done.set()


def make_executor(forward: Forward, clock: Clock) -> Executor:
    """The executor for the device that a forward pass runs on."""
    if forward.device.type == "cuda":
        from runtime.cuda_executor import CudaExecutor

        return CudaExecutor(forward, clock)
    return CpuExecutor(forward, clock)
