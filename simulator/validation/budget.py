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
from simulator.host import HostModel, HostOptions
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
    found = _Budget(real, dict(config), keep, ranks, _errors(base))
    parts = [
        found.step_durations(),
        found.host_times(),
        found.kv_capacity(),
        found.arrivals(),
        found.decisions(),
        found.everything(),
    ]
    return Budget(found.base, tuple(parts))


def _errors(found: Figures) -> dict[str, float]:
    return {row.metric: row.error for row in found.rows if row.statistic == "mean"}


class _Budget:
    """Simulations of one real run, each with something of it put in."""

    def __init__(
        self,
        real: RealRun,
        config: dict[str, Any],
        keep: Path,
        ranks: int,
        base: dict[str, float],
    ) -> None:
        self.base = {name: base[name] for name in LATENCIES if name in base}
        self._real = real
        self._config = config
        self._keep = keep
        self._ranks = ranks
        self._put: dict[str, Any] = {}  # sections put in so far, for everything at once
        self._sent: Workload | None = None
        self._profile = keep / "own-steps.json"
        self._steps: Steps | None = None
        self._why_no_steps = "steps were not recorded"
        if real.run is not None and real.run.has("steps"):
            try:
                self._steps = Steps.of(real.run)
                calibrate([real.run]).profile.save(self._profile)
            except CalibrationError as error:
                self._steps, self._why_no_steps = None, str(error)

    def step_durations(self) -> Part:
        if self._steps is None:
            return _unknown("step durations", self._why_no_steps)
        section = {
            "model": "calibrated",
            "profile": str(self._profile),
            "accept_mismatch": True,
        }
        self._put["latency"] = section
        return self._with("step durations", {"latency": section}, "a model fitted to its own steps")

    def host_times(self) -> Part:
        if self._steps is None:
            return _unknown("host times", self._why_no_steps)
        section = fit_host(self._steps)
        self._put["host"] = section
        return self._with("host times", {"host": section}, "a model fitted to its own steps")

    def kv_capacity(self) -> Part:
        engine = self._real.engine
        if engine is None or engine.kv_tokens is None:
            return _unknown("KV capacity", "it was not recorded")
        section = {**self._config.get("kv", {}), "capacity_tokens": engine.kv_tokens}
        if section == self._config.get("kv"):
            return Part(
                "KV capacity", self.base, dict.fromkeys(self.base, 0.0), "was given as it is"
            )
        self._put["kv"] = section
        return self._with("KV capacity", {"kv": section}, f"{engine.kv_tokens:,} tokens")

    def arrivals(self) -> Part:
        sent = measured_arrivals(self._real)
        if sent is None:
            return _unknown("arrival times", "they were not recorded, or follow from the answers")
        self._sent = sent
        planned = {request.id: request.arrival_ns for request in self._real.workload}
        late = [request.arrival_ns - planned[request.id] for request in sent]
        most = (max(late) - min(late)) / 1e6
        return self._with("arrival times", {}, f"up to {most:,.1f} ms from the plan", sent)

    def decisions(self) -> Part:
        if self._steps is None:
            return _unknown("decisions", self._why_no_steps)
        plan = Plan.of(as_config(self._config))
        made = retimed(
            self._real, predicted_ns(plan.latency, self._steps), host_ns(plan.host, self._steps)
        )
        return self._part("decisions", made, "its own batches, timed by the models")

    def everything(self) -> Part:
        if self._steps is not None:
            latency = Plan.of(as_config(self._config | {"latency": self._put["latency"]})).latency
            host = HostModel(HostOptions(**self._put["host"]))
            made = retimed(
                self._real, predicted_ns(latency, self._steps), host_ns(host, self._steps)
            )
            return self._part("all of these", made, "what is left is within steps and between them")
        return self._with("all that is known", self._put, "", self._sent)

    def _with(
        self, name: str, sections: Mapping[str, Any], note: str, sent: Workload | None = None
    ) -> Part:
        config = self._config | dict(sections)
        made = replay(sent or self._real.workload, config, ranks=self._ranks).run
        return self._part(name, made, note)

    def _part(self, name: str, made: RealRun, note: str) -> Part:
        found = _errors(figures(self._real, made))
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
