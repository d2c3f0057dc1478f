"""Tables of step times by kind of step, real and by a profile.

A real step's time is seldom known alone: what is known are stretches of steps between two instants. Those
without prefill give the time of decode steps; that of a step with prefill is what a stretch takes longer
than the decode steps in it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.operators.llmservingsim import CAPTURED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.latency.base import LatencyModel, StepShape

BUDGET = 2048
ROWS = (0, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 127, 128)
FEW_ROWS, MANY_ROWS = 66, 110


class Stretch(NamedTuple):
    """Steps between two known ends."""

    seconds: float
    steps: list[StepShape]

    @property
    def prefills(self) -> int:
        """Steps with prefill."""
        return sum(bool(step.prefill) for step in self.steps)

    @property
    def rows(self) -> float:
        """Decode rows of a step, in the mean."""
        return sum(step.decode_requests for step in self.steps) / len(self.steps)


class Prefill(NamedTuple):
    """A step with prefill: its tokens, those of decode rows included, these rows, and milliseconds."""

    tokens: int
    rows: int
    real: float
    made: float


def prefills(
    stretches: Sequence[Stretch],
    latency: LatencyModel,
    decode_s: Callable[[StepShape], float],
    *,
    beside: int,
) -> list[Prefill]:
    """The steps with prefill that are alone in their stretch, but for some decode steps.

    Args:
        stretches: all.
        latency: by the profile.
        decode_s: what a decode step took, seconds.
        beside: decode steps, at most.
    """
    found = []
    for stretch in stretches:
        if stretch.prefills != 1 or len(stretch.steps) > beside + 1:
            continue
        [step] = [step for step in stretch.steps if step.prefill]
        real = stretch.seconds - sum(decode_s(s) for s in stretch.steps if not s.prefill)
        tokens = step.decode_requests + sum(new for new, _ in step.prefill)
        made = latency.step_ns(step) / 1e6
        found.append(Prefill(tokens, step.decode_requests, 1e3 * real, made))
    return found


def as_its_like(stretches: Sequence[Stretch]) -> Callable[[StepShape], float]:
    """A decode step's seconds: as in a stretch that only decodes, with as many rows or nearly."""
    alone = {s.rows: s.seconds / len(s.steps) for s in stretches if not s.prefills}
    return lambda step: alone[min(alone, key=lambda n: abs(n - step.decode_requests))]


def as_all_others(
    stretches: Sequence[Stretch], latency: LatencyModel
) -> Callable[[StepShape], float]:
    """A decode step's seconds: the profile's, less its error over all that only decodes."""
    alone = [s for s in stretches if not s.prefills]
    made = sum(latency.step_ns(step) for s in alone for step in s.steps)
    share = sum(s.seconds for s in alone) / made
    return lambda step: share * latency.step_ns(step)


def sums(stretches: Sequence[Stretch], latency: LatencyModel) -> None:
    """All stretches, those that only decode, and the others."""
    print(f"\n{'stretches':16}{'steps':>7}{'real ms':>9}{'profile':>9}{'error':>8}")
    for name, held in (
        ("all", stretches),
        ("decode only", [s for s in stretches if not s.prefills]),
        ("with prefill", [s for s in stretches if s.prefills]),
    ):
        print(f"{name:16}{_line(held, latency)}")
    longer = {
        i: s.seconds - sum(map(latency.step_ns, s.steps)) / 1e9 for i, s in enumerate(stretches)
    }
    worst = max(longer, key=longer.__getitem__)
    print(
        f"longest beyond the profile: {longer[worst]:.2f} s over {len(stretches[worst].steps)} steps, "
        f"{stretches[worst].prefills} with prefill, of {stretches[worst].rows:.0f} decode rows"
    )


def decode_table(stretches: Sequence[Stretch], latency: LatencyModel) -> None:
    """Stretches that only decode, by their rows."""
    print(f"\n{'decode rows':16}{'steps':>7}{'real ms':>9}{'profile':>9}{'error':>8}")
    for low, high in pairwise(ROWS):
        held = [s for s in stretches if not s.prefills and low < s.rows <= high]
        if held:
            print(f"{low + 1:>7} to {high:<5}{_line(held, latency)}")


def prefill_table(found: Sequence[Prefill], edges: Sequence[int]) -> None:
    """Steps with prefill, by their tokens: above one edge, and up to the next."""
    print(f"\n{'tokens':16}{'steps':>7}{'real ms':>9}{'profile':>9}{'error':>8}")
    for low, high in pairwise(edges):
        held = [f for f in found if low < f.tokens <= high]
        if held:
            real, made = _means(held)
            print(
                f"{low + 1:>7} to {high:<5}{len(held):7}{real:9.1f}{made:9.1f}{made / real - 1:+8.1%}"
            )


def prefill_differences(found: Sequence[Prefill]) -> None:
    """Steps with prefill, by their tokens, and what the profile lacks with few and with many rows."""
    print(f"\n{'tokens':16}{'steps':>7}{'real ms':>9}{'profile':>9}  real less profile, ms: up to")
    print(f"{'':43}{FEW_ROWS} decode rows, and more than {MANY_ROWS}")
    for low, high in pairwise(range(CAPTURED[-1], BUDGET + 1, 128)):
        held = [f for f in found if low < f.tokens <= high]
        if held:
            few = [f.real - f.made for f in held if f.rows <= FEW_ROWS]
            many = [f.real - f.made for f in held if f.rows > MANY_ROWS]
            ends = "".join(f"{np.mean(d):+9.1f}" if d else f"{'':9}" for d in (few, many))
            real, made = _means(held)
            print(f"{low + 1:>7} to {high:<5}{len(held):7}{real:9.1f}{made:9.1f}{ends}")


def _means(found: Sequence[Prefill]) -> tuple[float, float]:
    """Milliseconds, real and by the profile."""
    return tuple(np.mean([(f.real, f.made) for f in found], axis=0).tolist())


def _line(held: Sequence[Stretch], latency: LatencyModel) -> str:
    """Steps, their milliseconds each, real and by the profile, and its error."""
    steps = sum(len(s.steps) for s in held)
    real = 1e3 * sum(s.seconds for s in held) / steps
    made = sum(latency.step_ns(step) for s in held for step in s.steps) / 1e6 / steps
    return f"{steps:7}{real:9.2f}{made:9.2f}{made / real - 1:+8.1%}"
