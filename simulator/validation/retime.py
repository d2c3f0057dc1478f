"""A recorded run with its decisions as they were and its times made anew.

The batches of a run in their order, each as long as a latency model says, the host as long as a host model
says: what the run would have taken had the models been the machine, and had it decided the same. A batch
still cannot begin before the requests it admits have come. With the recorded durations and host times this
gives the recorded run, but for what the host did outside its phases.

The step table has sums over a batch's rows. Prefill rows are taken to be such that they attend to as many
tokens as was recorded, decode rows to be equally long.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from simulator.calibration.steps import PHASES, Steps
from simulator.latency.base import StepShape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.host import HostModel
    from simulator.latency.base import LatencyModel
    from traces.real_runs.base import RealRun

    Int64s = NDArray[np.int64]


def predicted_ns(latency: LatencyModel, steps: Steps) -> Int64s:
    """What a latency model says of each recorded step: int64, shape (steps,)."""
    return np.array([latency.step_ns(shape_of(steps, i)) for i in range(len(steps))], np.int64)


def host_ns(host: HostModel, steps: Steps) -> Int64s:
    """What a host model says of each recorded step, by phase: int64, shape (6, steps)."""
    found = np.zeros((len(PHASES), len(steps)), np.int64)
    for i in range(len(steps)):
        prefill, decode = int(steps.prefill_requests[i]), int(steps.decode_requests[i])
        rows = prefill + decode
        found[:, i] = (
            host.receive_ns(int(steps.arrivals[i])),
            host.schedule_ns(int(steps.waiting[i]), int(steps.running[i]), prefill),
            host.prepare_ns(prefill, int(steps.prefill_tokens[i]), decode),
            host.launch_ns(),
            host.collect_ns(rows),
            host.commit_ns(rows, int(steps.finished[i])),
        )
    return found


def shape_of(steps: Steps, i: int) -> StepShape:
    """One recorded step as a latency model is asked for it."""
    rows, new, cached = (
        int(column[i])
        for column in (steps.prefill_requests, steps.prefill_tokens, steps.cached_tokens)
    )
    prefill = _prefill_rows(rows, new, cached, int(steps.prefill_pairs[i]))
    decode, kv = int(steps.decode_requests[i]), int(steps.decode_kv_tokens[i])

    def lens() -> Int64s:
        even = np.full(decode, kv // max(decode, 1), np.int64)
        even[: kv - int(even.sum())] += 1
        return even

    return StepShape(prefill, decode, kv, int(steps.sampled[i]), lens)


def _prefill_rows(rows: int, new: int, cached: int, pairs: int) -> list[tuple[int, int]]:
    """Rows of these sums, with as nearly as can be so many pairs of a token and one it attends to.

    One row has all that is cached before it; the rest share the other tokens evenly.
    """
    if rows < 2:
        return [(new, cached)] * rows
    others = rows - 1
    first = np.arange(1, new - others + 1, dtype=np.int64)
    each, more = np.divmod(new - first, others)
    squares = more * (each + 1) ** 2 + (others - more) * each**2
    twice = first * (2 * cached + first) + squares + new
    x = int(first[np.argmin(np.abs(twice - 2 * pairs))])
    rest = new - x
    return [(x, cached), *((rest // others + (j < rest % others), 0) for j in range(others))]


def retimed(real: RealRun, device: Int64s, host: Int64s) -> RealRun:
    """The run with these times.

    Args:
        real: a run with a step table.
        device: nanoseconds of each step, (steps,).
        host: by phase, (6, steps).

    Raises:
        ValueError: where it has none.
    """
    run = real.run
    if run is None or not run.has("steps"):
        raise ValueError(f"{real.path} has no step table, so its decisions cannot be timed anew")
    overlapped = real.engine is not None and real.engine.overlapped is True
    table = run.steps
    commits = table["commit_ns"].to_numpy(np.int64)
    launches = table["launch_ns"].to_numpy(np.int64)
    origin = int(run.requests["arrival_ns"].min())
    ready = _admitted(real, launches, origin)
    anew = _timeline(device, host, ready, overlapped=overlapped)
    requests = []
    for request in real.requests:
        if request.arrival_ns is None or request.ttft_ns is None or request.e2e_ns is None:
            requests.append(request)
            continue
        at = request.arrival_ns + origin
        first, last = (
            anew[min(int(np.searchsorted(commits, at + after)), len(anew) - 1)]
            for after in (request.ttft_ns, request.e2e_ns)
        )
        requests.append(
            replace(
                request,
                ttft_ns=int(first) - request.arrival_ns,
                e2e_ns=int(last) - request.arrival_ns,
                itl_ns=None,
            )
        )
    return replace(real, name="retimed", requests=tuple(requests), series=None)


def _admitted(real: RealRun, launches: Int64s, origin: int) -> Int64s:
    """When each step's newly admitted requests had all come, nanoseconds from the first arrival."""
    assert real.run is not None
    ready = np.zeros(len(launches), np.int64)
    known = real.run.requests.dropna(subset=["first_scheduled_ns"])
    for arrival, scheduled in zip(known["arrival_ns"], known["first_scheduled_ns"], strict=True):
        step = min(int(np.searchsorted(launches, int(scheduled))), len(ready) - 1)
        ready[step] = max(ready[step], int(arrival) - origin)
    return ready


def _timeline(device: Int64s, host: Int64s, ready: Int64s, *, overlapped: bool) -> Int64s:
    """When each step is committed, nanoseconds from the first arrival: the loops of `policies.loops`."""
    before = host[:4].sum(axis=0).tolist()
    after = host[4:].sum(axis=0).tolist()
    commits: list[int] = []
    ends: list[int] = []

    def commit_next() -> int:
        """Collect the step in flight; returns when the host is done with it."""
        i = len(commits)
        commits.append(max(now, ends[i]) + after[i])
        return commits[i]

    ahead = int(overlapped)  # steps that stay in flight while the host prepares the next
    now = 0
    for i, (duration, earliest) in enumerate(zip(device.tolist(), ready.tolist(), strict=True)):
        if earliest > now and len(commits) < len(ends):
            now = commit_next()  # the host had nothing to launch: it waited for the device
        now = max(now, earliest) + before[i]
        ends.append(max(now, ends[-1] if ends else 0) + duration)
        if len(ends) - len(commits) > ahead:
            now = commit_next()
    if len(commits) < len(ends):
        commit_next()
    return np.array(commits, np.int64)
