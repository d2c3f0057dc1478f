"""Validation of the simulator against real runs: simulate the same requests, compare, and say why.

One real run is compared as it is. Several are repeats of it, which also tell what the real system differs
from itself. A run under another policy beside it asks whether the choice between the two holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from simulator.validation.answer import answers
from simulator.validation.budget import budget
from simulator.validation.compare import compare
from simulator.validation.repeats import check_other, check_repeats
from simulator.validation.spread import spreads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from simulator.validation.answer import Answer
    from simulator.validation.budget import Budget
    from simulator.validation.compare import Compared, Question
    from simulator.validation.spread import Spread
    from traces.real_runs.base import RealRun

SAME_SETTINGS = (
    "it was simulated with the settings of the first: its files name no other policy; say with "
    "--other-set what differs"
)


@dataclass(frozen=True, slots=True)
class Validation:
    """What came of it.

    Attributes:
        repeats: each real run with its simulation; one, or several repeats.
        other: the run under another policy, with its simulation.
        spreads: of each statistic over repeats; empty for one run.
        budget: the first run's error by cause; None where it was not asked for.
        answers: whether the choice between the policies holds; empty without another policy.
    """

    repeats: tuple[Compared, ...]
    other: Compared | None = None
    spreads: tuple[Spread, ...] = ()
    budget: Budget | None = None
    answers: tuple[Answer, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "runs": [one.to_dict() for one in self.repeats],
            "other": None if self.other is None else self.other.to_dict(),
            "spread": [one.to_dict() for one in self.spreads],
            "budget": None if self.budget is None else self.budget.to_dict(),
            "answers": [one.to_dict() for one in self.answers],
        }


def validate(
    real: Sequence[RealRun],
    question: Question,
    keep: Path,
    *,
    other: tuple[RealRun, Question] | None = None,
    causes: bool = True,
) -> Validation:
    """Simulate real runs and compare.

    Args:
        real: one run, or several of the same requests.
        question: how to simulate them.
        keep: a folder for what is made on the way: condensed and fitted profiles.
        other: a run of the same requests under another policy, and how to simulate it.
        causes: also make the error budget of the first run.

    Raises:
        ValueError: where the runs are no repeats, the other is of other requests, or a run cannot be
            simulated; says why.
    """
    notes = check_repeats(real)
    if other is not None:
        notes += check_other(real[0], other[0])
    files = ["profile.json", *(f"profile-{i}.json" for i in range(2, len(real) + 1))]
    repeats = [compare(run, question, keep / file) for run, file in zip(real, files, strict=True)]
    first = repeats[0] = replace(repeats[0], notes=(*repeats[0].notes, *notes))
    found = Validation(tuple(repeats))
    if len(repeats) > 1:
        found = replace(found, spreads=tuple(spreads([one.figures for one in repeats])))
    if causes:
        config, ranks = first.simulated.config, first.simulated.ranks
        parts = budget(real[0], config, keep, ranks=ranks, base=first.figures)
        found = replace(found, budget=parts)
    if other is None:
        return found
    second = compare(*other, keep / "profile-other.json")
    if all(second.simulated.config[k] == first.simulated.config[k] for k in ("preset", "policy")):
        second = replace(second, notes=(*second.notes, SAME_SETTINGS))
    held = answers((real[0], other[0]), (first.simulated.run, second.simulated.run))
    return replace(found, other=second, answers=tuple(held))
