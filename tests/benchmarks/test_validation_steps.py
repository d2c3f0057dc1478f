"""A run's steps are told from the instants of its requests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from benchmarks.validation_steps.tables import BUDGET
from benchmarks.validation_steps.told import SCHEDULING_S, Served, next_step, told

if TYPE_CHECKING:
    from simulator.latency.base import LatencyModel, StepShape


class Tenth:
    """A hundredth of a second a decode step, and as much for every hundred prompt tokens."""

    def step_ns(self, shape: StepShape) -> int:
        return 10_000_000 + 100_000 * sum(new for new, _ in shape.prefill)


def served() -> tuple[list[Served], int]:
    """Requests served by steps a little slower than `Tenth` says, and how many steps that took.

    One is sent every 24 steps; each is scheduled as a step ends and runs two steps later. The first four
    end together.
    """
    outputs = [150 - 24 * i if i < 4 else 40 + 13 * i for i in range(8)]
    sizes = [(300 + 170 * i, n) for i, n in enumerate(outputs)] + [(2 * BUDGET + 5, 30)]
    requests = [Served(p, o, 0.0, 0.0, 0.0, 0) for p, o in sizes]
    running: list[int] = []
    now, count = SCHEDULING_S, 0
    ends = [now]
    while any(r.generated < r.output for r in requests):
        sent = count // 24
        admitted = [sent] if count % 24 == 0 and sent < len(requests) else []
        for i in admitted:
            requests[i].scheduled = ends[max(len(ends) - 2, 0)] + SCHEDULING_S
        step = next_step(requests, running, admitted)
        if not step.shape.prefill and not step.shape.decode_requests:
            raise AssertionError("an idle step: send requests closer together")
        now += 1.02e-9 * Tenth().step_ns(step.shape)
        ends.append(now)
        count += 1
        for i in step.firsts:
            requests[i].first = now
        for i in step.lasts:
            requests[i].last = now
    return [replace(r, computed=0, generated=0) for r in requests], count


def test_every_step_of_a_run_is_found() -> None:
    requests, count = served()
    stretches, misplaced = told(requests, cast("LatencyModel", Tenth()))
    assert misplaced == 0
    assert sum(len(s.steps) for s in stretches) == count
    assert sum(s.seconds for s in stretches) == pytest.approx(
        max(r.last for r in requests) - min(r.scheduled for r in requests), abs=2 * SCHEDULING_S
    )


def test_tokens_that_no_such_steps_could_have_made_are_counted() -> None:
    requests, _ = served()
    longer = [replace(r, output=r.output + 3 * (i == 2)) for i, r in enumerate(requests)]
    assert told(longer, cast("LatencyModel", Tenth()))[1] > 0
