"""Runs requests and keeps the time of every step, in memory and with nothing but torch and numpy.

A gap is the time between the end of one step on the device and the start of the next. Where the host
launches kernels one by one, the device may also wait within a step: that shows in the step, not the gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from policies.request import Request
from policies.tokens import TokenLog
from runtime.arrivals import LoadArrivals
from runtime.clock import Clock
from runtime.config import as_config
from runtime.executor import make_executor
from runtime.jobs import Job
from runtime.recorder import Recorder
from runtime.sampling.params import SamplingParams
from runtime.stack import Stack
from runtime.world import World
from traces.load import ClosedLoop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runtime.ticket import Ticket
    from runtime.weights.load import LoadedModel
    from traces.load import Arrival
    from traces.workload import Workload

WARM_UP = 4


class StepTime(NamedTuple):
    """A step: its composition, and when the device began and ended it, in nanoseconds."""

    prefill_requests: int
    prefill_tokens: int
    decode_requests: int
    start_ns: int
    end_ns: int


class StepLog(Recorder):
    """Keeps every step's time.

    Attributes:
        times: in the order of commits.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(None, rows)
        self.times: list[StepTime] = []

    def committed(self, ticket: Ticket, commit_ns: int) -> None:
        """See `Recorder.committed`."""
        super().committed(ticket, commit_ns)
        batch = ticket.batch
        self.times.append(
            StepTime(
                len(batch.prefill),
                sum(item.length for item in batch.prefill),
                batch.decode_requests,
                ticket.start_ns,
                ticket.end_ns,
            )
        )


def run_steps(work: Workload, config: Mapping[str, Any], loaded: LoadedModel) -> list[StepTime]:
    """Answer a workload, greedily and to its output lengths, in closed loop.

    Raises:
        RuntimeError: where a step failed, or a request did not end as it should.
    """
    stack = Stack.build(as_config(config), loaded)
    clock, log = Clock(), StepLog(stack.rows)
    vocab = loaded.config.vocab_size

    def job(arrival: Arrival) -> Job:
        asked = arrival.request
        tokens = TokenLog(asked.prompt.array() % vocab)
        count = asked.max_new_tokens
        params = SamplingParams(max_new_tokens=count, temperature=0.0, ignore_eos=True)
        return Job(
            Request(asked.id, tokens, count, arrival.sent_ns, ignore_eos=True), tokens, params
        )

    executor = make_executor(stack.forward, clock)
    try:
        arrivals = LoadArrivals(ClosedLoop(work), clock, job)
        world = World(stack.planner(executor.buffer), executor, arrivals, log, clock)
        world.run()
    finally:
        executor.close()
    if world.last_failure is not None:
        raise world.last_failure
    if log.finished != len(work):
        raise RuntimeError(f"{log.finished} of {len(work)} requests were answered")
    return log.times


def decode_figures(steps: Sequence[StepTime], batch: int) -> dict[str, float]:
    """Medians over decode steps of the full batch that follow each other, in microseconds.

    The first few are left out: they bring clocks and caches up.

    Returns:
        `steps`, how many pairs; `step_us`, from the start of one to the start of the next;
        `device_us`, from start to end; `gap_us`; `gap_share`, gap by step.

    Raises:
        ValueError: where there are too few such steps.
    """
    full = [step.prefill_requests == 0 and step.decode_requests == batch for step in steps]
    pairs = [
        (one, two)
        for one, two, a, b in zip(steps, steps[1:], full, full[1:], strict=False)
        if a and b
    ][WARM_UP:]
    if not pairs:
        raise ValueError(f"too few decode steps of {batch} requests among {len(steps)} steps")
    starts = np.array([(one.start_ns, two.start_ns) for one, two in pairs])
    ends = np.array([one.end_ns for one, _ in pairs])
    whole = starts[:, 1] - starts[:, 0]
    gap = float(np.median(starts[:, 1] - ends))
    return {
        "steps": len(pairs),
        "step_us": float(np.median(whole)) / 1e3,
        "device_us": float(np.median(ends - starts[:, 0])) / 1e3,
        "gap_us": gap / 1e3,
        "gap_share": gap / float(np.median(whole)),
    }
