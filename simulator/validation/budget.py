"""The error by its cause: measured parts take the place of modelled ones, one at a time.

Each part of the simulation that was measured in the real run is put in alone, all else left to the models,
and the error that remains is told. What an error loses by it, that part explains. Parts act on each other,
so the shares need not add up; the last line, with all that is known put in at once, says what is left.

| part | what is put in |
|---|---|
| step durations | a latency model fitted to this run's own steps |
| host times | a host model fitted to this run's own steps |
| KV capacity | what the engine had, for what was derived or given |
| arrival times | when requests did come, for when they were to come |
| decisions | the run's own batches in their order, timed by the models |

The records of this project's runs hold all of it; those of other engines mostly the last but one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from simulator.calibration.fitting import calibrate
from simulator.calibration.host import fit_host
from simulator.calibration.steps import CalibrationError, Steps
from simulator.config import Plan
from simulator.simulation import as_config
from simulator.validation.figures import figures
from simulator.validation.replay import replay
from simulator.validation.retime import host_ns, predicted_ns, retimed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from simulator.validation.figures import Figures
    from traces.real_runs.base import RealRun
    from traces.workload import Workload

LATENCIES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Part:
    """What came of putting one measured part in.

    Attributes:
        name: of the part.
        errors: of the mean of each latency, as shares; empty where the part is not known.
        explained: by how much the absolute error fell, as shares.
        note: why it is not known, or what was put in.
    """

    name: str
    errors: dict[str, float]
    explained: dict[str, float]
    note: str = ""

    @property
    def known(self) -> bool:
        """Whether it was measured."""
        return bool(self.errors)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Budget:
    """The errors of the simulation, and with each measured part put in."""

    base: dict[str, float]
    parts: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"base": self.base, "parts": [part.to_dict() for part in self.parts]}


def budget(
    real: RealRun, config: Mapping[str, Any], keep: Path, *, ranks: int = 1, base: Figures
) -> Budget:
    """The error budget of one real run.

    Args:
        real: the run.
        config: all that it was simulated with.
        keep: folder for what is fitted to the run.
        ranks: data-parallel ranks.
        base: what the simulation came to.
    """
    means = _means(base)
    parts = _Parts(
        real,
        config,
        ranks,
        {name: means[name] for name in LATENCIES if name in means},
        _own_steps(real, keep),
        measured_arrivals(real),
    )
    return Budget(
        parts.base,
        (
            parts.step_durations(),
            parts.host_times(),
            parts.kv_capacity(),
            parts.arrivals(),
            parts.decisions(),
            parts.everything(),
        ),
    )


def _means(found: Figures) -> dict[str, float]:
    """Errors of the means."""
    return {row.metric: row.error for row in found.rows if row.statistic == "mean"}


@dataclass(frozen=True, slots=True)
class _OwnSteps:
    """A run's own steps.

    Attributes:
        recorded: as they were.
        sections: of a config, `latency` and `host`, with models fitted to them.
    """

    recorded: Steps
    sections: dict[str, Any]


def _own_steps(real: RealRun, keep: Path) -> _OwnSteps | str:
    """A run's own steps; in words why they are not known, where they are not."""
    if real.run is None or not real.run.has("steps"):
        return "steps were not recorded"
    profile = keep / "own-steps.json"
    try:
        recorded = Steps.of(real.run)
        calibrate([real.run]).profile.save(profile)
    except CalibrationError as error:
        return str(error)
    latency = {"model": "calibrated", "profile": str(profile), "accept_mismatch": True}
    return _OwnSteps(recorded, {"latency": latency, "host": fit_host(recorded)})


@dataclass(frozen=True, slots=True)
class _Parts:
    """Simulations of one real run, each with something of it put in.

    Attributes:
        real: the run.
        config: all that it was simulated with.
        ranks: data-parallel ranks.
        base: errors of that simulation.
        steps: the run's own, or why they are not known.
        sent: requests when they came, if that is known.
    """

    real: RealRun
    config: Mapping[str, Any]
    ranks: int
    base: dict[str, float]
    steps: _OwnSteps | str
    sent: Workload | None

    def step_durations(self) -> Part:
        return self._fitted("step durations", "latency")

    def host_times(self) -> Part:
        return self._fitted("host times", "host")

    def _fitted(self, name: str, section: str) -> Part:
        if isinstance(self.steps, str):
            return _unknown(name, self.steps)
        sections = {section: self.steps.sections[section]}
        return self._part(name, self._simulated(sections), "a model fitted to its own steps")

    def kv_capacity(self) -> Part:
        section = self._kv_section()
        if section is None:
            return _unknown("KV capacity", "it was not recorded")
        if section == self.config.get("kv"):
            unchanged = dict.fromkeys(self.base, 0.0)
            return Part("KV capacity", self.base, unchanged, "was given as it is")
        note = f"{section['capacity_tokens']:,} tokens"
        return self._part("KV capacity", self._simulated({"kv": section}), note)

    def _kv_section(self) -> dict[str, Any] | None:
        """Section `kv` with the capacity that the engine had, if that is known."""
        engine = self.real.engine
        if engine is None or engine.kv_tokens is None:
            return None
        return {**self.config.get("kv", {}), "capacity_tokens": engine.kv_tokens}

    def arrivals(self) -> Part:
        if self.sent is None:
            return _unknown("arrival times", "they were not recorded, or follow from the answers")
        planned = {request.id: request.arrival_ns for request in self.real.workload}
        late = [request.arrival_ns - planned[request.id] for request in self.sent]
        most_ms = (max(late) - min(late)) / 1e6
        note = f"up to {most_ms:,.1f} ms from the plan"
        return self._part("arrival times", self._simulated({}, self.sent), note)

    def decisions(self) -> Part:
        if isinstance(self.steps, str):
            return _unknown("decisions", self.steps)
        made = self._retimed(self.steps.recorded, {})
        return self._part("decisions", made, "its own batches, timed by the models")

    def everything(self) -> Part:
        if not isinstance(self.steps, str):
            made = self._retimed(self.steps.recorded, self.steps.sections)
            return self._part("all of these", made, "what is left is within steps and between them")
        kv = self._kv_section()
        sections = {} if kv is None else {"kv": kv}
        return self._part("all that is known", self._simulated(sections, self.sent), "")

    def _simulated(self, sections: Mapping[str, Any], sent: Workload | None = None) -> RealRun:
        """The run simulated with these sections, and requests sent then."""
        config = {**self.config, **sections}
        return replay(sent or self.real.workload, config, ranks=self.ranks).run

    def _retimed(self, steps: Steps, sections: Mapping[str, Any]) -> RealRun:
        """The run's own batches, timed by the models of these sections."""
        plan = Plan.of(as_config({**self.config, **sections}))
        return retimed(self.real, predicted_ns(plan.latency, steps), host_ns(plan.host, steps))

    def _part(self, name: str, made: RealRun, note: str) -> Part:
        found = _means(figures(self.real, made))
        errors = {latency: found[latency] for latency in self.base if latency in found}
        explained = {k: abs(self.base[k]) - abs(error) for k, error in errors.items()}
        return Part(name, errors, explained, note)


def measured_arrivals(real: RealRun) -> Workload | None:
    """The workload with the arrivals that were measured; None where they are not known apart.

    In a closed loop arrivals follow from the answers, so there they are no part of their own.
    """
    if real.concurrency is not None or any(r.arrival_ns is None for r in real.requests):
        return None
    known = {request.id: request.arrival_ns or 0 for request in real.requests}
    sent = [
        replace(request, arrival_ns=known[request.id])
        for request in real.workload
        if request.id in known
    ]
    sent.sort(key=lambda request: request.arrival_ns)
    return replace(real.workload, requests=sent)


def _unknown(name: str, why: str) -> Part:
    return Part(name, {}, {}, f"not known: {why}")
