"""One real run beside its simulation: the same requests, statistic by statistic and over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.operators.shards import Parallel
from simulator.validation.assumption import resolved
from simulator.validation.budget import measured_arrivals
from simulator.validation.figures import figures
from simulator.validation.latency import latency_section, split_of
from simulator.validation.replay import replay
from simulator.validation.series import series
from simulator.validation.setup import setup_of
from simulator.validation.split import check_split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from simulator.operators.llmservingsim import Link
    from simulator.validation.assumption import Assumption
    from simulator.validation.figures import Figures
    from simulator.validation.replay import Replay
    from simulator.validation.series import Series
    from simulator.validation.setup import Setup
    from traces.real_runs.base import RealRun

ROOFLINE = "step times are a roofline's, from datasheets: nothing was measured; give a profile"


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


def compare(real: RealRun, question: Question, keep: Path) -> Compared:
    """Simulate the requests of a real run and compare.

    Args:
        real: the run.
        question: how to simulate it.
        keep: where to write a profile that is condensed from a folder, as JSON.

    Raises:
        ValueError: where it cannot be simulated; says why.
    """
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
    simulated = replay(workload, config, question.settings, ranks=setup.ranks)
    assert simulated.run.run is not None
    facts = simulated.run.run.manifest
    return Compared(
        real,
        simulated,
        figures(real, simulated.run),
        tuple(series(real, simulated.run)),
        resolved(setup.assumptions, facts["resolved"]),
        tuple(_notes(real, setup, simulated, facts)),
    )


def _notes(
    real: RealRun, setup: Setup, simulated: Replay, facts: Mapping[str, Any]
) -> Iterator[str]:
    """What is not known or not measured: of the real run, then of the simulated one."""
    yield from real.notes
    if simulated.config["latency"]["model"] == "roofline":
        yield ROOFLINE
    if real.engine is not None and real.engine.tensor_parallel is not None:
        yield from check_split(setup, _measured_split(facts))
    yield from facts.get("approximations", [])
    for name, count in facts.get("flags", {}).items():
        yield f"{count:,} step{'s' * (count != 1)} beyond what was measured: {name}"


def _measured_split(facts: Mapping[str, Any]) -> Parallel | None:
    """How the model is split that step times are of, if they know of any split."""
    split = facts["resolved"]["latency"].get("parallel")
    return None if split is None else Parallel(**split)
