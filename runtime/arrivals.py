"""Where jobs come from: a queue that clients fill while the engine runs, or the load of a trace.

A world asks what has come in, and where nothing is left to do it waits here. Times are nanoseconds of
the run's clock.
"""

from __future__ import annotations

from threading import Condition, Event
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.clock import Clock
    from runtime.jobs import Job
    from traces.load import Arrival, Load


class Arrivals(Protocol):
    """What a world asks about what comes in."""

    def take(self, now_ns: int) -> tuple[list[Job], list[str]]:
        """What has come in and was not taken yet: jobs, and ids of those given up. Never waits."""
        ...

    def wait(self, until_ns: int | None) -> bool:
        """Wait until something may have come in, or until a time.

        Returns:
            False where nothing will ever come in again.
        """
        ...

    def ended(self, job: Job, now_ns: int) -> None:
        """A job that was taken ended, in whatever way."""
        ...


class LiveQueue:
    """Jobs from clients, submitted from any thread. See `Arrivals`.

    Args:
        clock: the run's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = Condition()
        self._jobs: list[Job] = []
        self._aborts: list[str] = []
        self._live: dict[str, Job] = {}
        self._closed: str | None = None

    def submit(self, job: Job) -> None:
        """Hand a job in; it arrives now.

        Raises:
            ValueError: where its id is in use by a job that has not ended.
            RuntimeError: where the queue was closed.
        """
        with self._changed:
            if self._closed is not None:
                raise RuntimeError(f"the engine takes no more requests: {self._closed}")
            if job.request.id in self._live:
                raise ValueError(f"request id {job.request.id!r} is in use by one that runs")
            job.request.arrival_ns = self._clock.now()
            self._live[job.request.id] = job
            self._jobs.append(job)
            self._changed.notify()

    def abort(self, request_id: str) -> bool:
        """Give a job up; returns whether there is such a job."""
        with self._changed:
            known = request_id in self._live
            if known:
                self._aborts.append(request_id)
                self._changed.notify()
            return known

    def abort_all(self) -> None:
        """Give all jobs up."""
        with self._changed:
            self._aborts.extend(self._live)
            self._changed.notify()

    def close(self, why: str) -> None:
        """Take no more jobs, and say why; those taken go on to their ends."""
        with self._changed:
            self._closed = self._closed or why
            self._changed.notify()

    def abandon(self) -> list[Job]:
        """The jobs that have not ended, which nobody will work on any more."""
        with self._changed:
            left = list(self._live.values())
            self._live.clear()
            self._jobs.clear()
            self._aborts.clear()
            return left

    def take(self, now_ns: int) -> tuple[list[Job], list[str]]:  # noqa: ARG002
        """See `Arrivals.take`."""
        if not self._jobs and not self._aborts:  # the common case takes no lock
            return [], []
        with self._changed:
            jobs, self._jobs = self._jobs, []
            aborts, self._aborts = self._aborts, []
        return jobs, aborts

    def wait(self, until_ns: int | None) -> bool:
        """See `Arrivals.wait`."""
        with self._changed:
            if not self._jobs and not self._aborts:
                if self._closed is not None and until_ns is None:
                    return False
                wait = None if until_ns is None else max(until_ns - self._clock.now(), 0) / 1e9
                self._changed.wait(wait)
        return True

    def ended(self, job: Job, now_ns: int) -> None:  # noqa: ARG002
        """See `Arrivals.ended`."""
        with self._changed:
            self._live.pop(job.request.id, None)


class LoadArrivals:
    """A trace's load in real time, open or closed loop. See `Arrivals`.

    Args:
        load: what is sent when.
        clock: the run's.
        make: makes a job of what is sent.
    """

    def __init__(self, load: Load, clock: Clock, make: Callable[[Arrival], Job]) -> None:
        self._load = load
        self._clock = clock
        self._make = make
        self._stopped = Event()

    def stop(self) -> None:
        """Send nothing more; from any thread."""
        self._stopped.set()

    def take(self, now_ns: int) -> tuple[list[Job], list[str]]:
        """See `Arrivals.take`."""
        if self._stopped.is_set():
            return [], []
        arrivals, aborts = self._load.take(now_ns)
        return [self._make(arrival) for arrival in arrivals], aborts

    def wait(self, until_ns: int | None) -> bool:
        """See `Arrivals.wait`."""
        next_ns = self._load.next_ns()
        if until_ns is not None:
            next_ns = until_ns if next_ns is None else min(next_ns, until_ns)
        if next_ns is None or self._stopped.is_set():
            return False
        wait_ns = next_ns - self._clock.now()
        return not (wait_ns > 0 and self._clock.wait(wait_ns, self._stopped))

    def ended(self, job: Job, now_ns: int) -> None:
        """See `Arrivals.ended`."""
        self._load.ended(job.request.id, now_ns)
