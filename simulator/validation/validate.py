"""Validation of the simulator against real runs: simulate the same requests, compare, and say why.

One real run is compared as it is. Several are repeats of it, which also tell what the real system differs
from itself. A run under another policy beside it asks whether the choice between the two holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from simulator.operators.shards import Parallel
from simulator.validation.answer import answers
from simulator.validation.assumption import resolved
from simulator.validation.budget import budget, measured_arrivals
from simulator.validation.figures import figures
from simulator.validation.replay import latency_section, replay, split_of
from simulator.validation.series import series
from simulator.validation.setup import setup_of
from simulator.validation.split import check_split
from simulator.validation.spread import (
    check_repeats,
    check_same_requests,
    is_same_run,
    only_in,
    spreads,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from simulator.operators.llmservingsim import Link
    from simulator.validation.answer import Answer
    from simulator.validation.assumption import Assumption
    from simulator.validation.budget import Budget
    from simulator.validation.figures import Figures
    from simulator.validation.replay import Replay
    from simulator.validation.series import Series
    from simulator.validation.spread import Spread
    from traces.real_runs.base import RealRun

ROOFLINE = "step times are a roofline's, from datasheets: nothing was measured; give a profile"

SAME_SETTINGS = (
    "it was simulated with the settings of the first: its files name no other policy; say with "
    "--other-set what differs"
)


@dataclass(frozen=True, slots=True)
class Question:
    """How to simulate a real run.

    Attributes:
        config: sections of a config; by default what the run's files say.
        settings: `section.key=value` settings over it.
        profile: what says how long steps take; by default what the config says.
        like: a run whose settings stand in for those not known.
        model, device: instead of what the run or the config says.
        link: between GPUs; by default what the run's files say.
        arrivals_as_measured: send requests when they came, rather than when they were to come.
    """

    config: Mapping[str, Any] | None = None
    settings: tuple[str, ...] = ()
    profile: str | None = None
    like: RealRun | None = None
    model: str | None = None
    device: str | None = None
    link: Link | None = None
    arrivals_as_measured: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """A real run beside its simulation.

    Attributes:
        real: the run.
        simulated: the same requests.
        figures: statistic by statistic.
        series: over time.
        assumptions: settings that the run's files do not say.
        notes: what is not known or not measured, of either.
    """

    real: RealRun
    simulated: Replay
    figures: Figures
    series: tuple[Series, ...]
    assumptions: tuple[Assumption, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "real": {
                "name": self.real.name,
                "source": self.real.source,
                "path": str(self.real.path),
                "requests": len(self.real.requests),
                "failed": self.real.failed,
            },
            "config": self.simulated.config,
            "ranks": self.simulated.ranks,
            "requests": self.figures.requests,
            "only_real": self.figures.only_real,
            "figures": [figure.to_dict() for figure in self.figures.rows],
            "unknown": list(self.figures.unknown),
            "series": [one.to_dict() for one in self.series],
            "assumptions": [one._asdict() for one in self.assumptions],
            "notes": list(self.notes),
        }


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
    told = check_repeats(real)
    if other is not None:
        told += _check_other(real[0], other[0])
    repeats = tuple(
        compared(run, question, keep / ("profile.json" if i == 0 else f"profile-{i + 1}.json"))
        for i, run in enumerate(real)
    )
    first = replace(repeats[0], notes=(*repeats[0].notes, *told))
    repeats = (first, *repeats[1:])
    found: tuple[Spread, ...] = ()
    if len(repeats) > 1:
        found = tuple(spreads([one.figures for one in repeats]))
    made = None
    if causes:
        ranks = first.simulated.ranks
        made = budget(real[0], first.simulated.config, keep, ranks=ranks, base=first.figures)
    if other is None:
        return Validation(repeats, None, found, made)
    second = compared(*other, keep / "profile-other.json")
    if all(second.simulated.config[k] == first.simulated.config[k] for k in ("preset", "policy")):
        second = replace(second, notes=(*second.notes, SAME_SETTINGS))
    held = answers((real[0], other[0]), (first.simulated.run, second.simulated.run))
    return Validation(repeats, second, found, made, tuple(held))


def _check_other(run: RealRun, other: RealRun) -> list[str]:
    """See that two runs are of the same requests; returns what to tell of those not in both."""
    if is_same_run(run, other):
        raise ValueError(f"{run.path} is also the run under another policy: give another")
    both = set(run.ids) & set(other.ids)
    if not both:
        raise ValueError(f"{run.path} and {other.path} answered no request of the same id")
    shared = [
        replace(r, requests=tuple(q for q in r.requests if q.id in both)) for r in (run, other)
    ]
    check_same_requests(shared[0], shared[1], "not of the same requests as")
    return [
        f"left out of the answers: {missing}, which {without.path} did not answer"
        for answered, without in ((run, other), (other, run))
        if (missing := only_in(answered, without))
    ]


def compared(real: RealRun, question: Question, keep: Path) -> Compared:
    """One real run beside its simulation."""
    setup = setup_of(
        real,
        config=question.config,
        like=question.like,
        model=question.model,
        device=question.device,
        split=split_of(question.profile),
        given=dict(one.partition("=")[::2] for one in question.settings),
    )
    config = dict(setup.config)
    if question.profile is not None:
        config["latency"] = latency_section(question.profile, setup, real, keep, question.link)
        if config["latency"]["model"] == "calibrated" and not config.get("host"):
            config["host"] = {"profile": question.profile}
    workload = real.workload
    if question.arrivals_as_measured:
        workload = measured_arrivals(real) or workload
    made = replay(workload, config, question.settings, ranks=setup.ranks)
    notes = list(real.notes)
    assert made.run.run is not None
    facts = made.run.run.manifest
    if made.config.get("latency", {}).get("model") == "roofline":
        notes.append(ROOFLINE)
    if real.engine is not None and real.engine.tensor_parallel is not None:
        notes += check_split(setup, _measured(facts))
    notes += facts.get("approximations", [])
    flags = facts.get("flags", {}).items()
    notes += [
        f"{count:,} step{'s' * (count != 1)} beyond what was measured: {name}"
        for name, count in flags
    ]
    return Compared(
        real,
        made,
        figures(real, made.run),
        tuple(series(real, made.run)),
        resolved(setup.assumptions, facts["resolved"]),
        tuple(notes),
    )


def _measured(facts: Mapping[str, Any]) -> Parallel | None:
    """How the model is split that step times are of, if they know of any split."""
    split = facts["resolved"]["latency"].get("parallel")
    return None if split is None else Parallel(**split)
