"""A real run and a simulated one, statistic by statistic.

Latencies are of the requests that both answered, each request against itself. An error is the simulated
value over the real one, less 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from traces.real_runs.base import LATENCIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from traces.real_runs.base import RealRun

NS_PER_MS = 1e6
NS_PER_S = 1e9
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
LABELS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One statistic of one metric, in milliseconds, or tokens or requests per second.

    Attributes:
        metric: `ttft`, `tpot`, `itl`, `e2e`, `output_rate`, `request_rate` or `duration`.
        statistic: `mean`, `p50` ...; empty where there is only one value.
        real: as measured.
        simulated: as simulated.
    """

    metric: str
    statistic: str
    real: float
    simulated: float

    @property
    def error(self) -> float:
        """The simulated value's difference as a share of the real one; NaN where that is 0."""
        return self.simulated / self.real - 1 if self.real else float("nan")

    @property
    def label(self) -> str:
        """For a table, with its unit."""
        return label(self.metric, self.statistic)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self) | {"error": self.error if self.real else None}


@dataclass(frozen=True, slots=True)
class Figures:
    """All statistics of a pair of runs.

    Attributes:
        rows: one after the other.
        requests: that both answered.
        only_real: answered by the real engine alone.
        unknown: latencies that the real run's files do not hold.
    """

    rows: tuple[Figure, ...]
    requests: int
    only_real: int
    unknown: tuple[str, ...]

    def of(self, metric: str, statistic: str = "mean") -> Figure:
        """One of them.

        Raises:
            KeyError: where it is not known.
        """
        for row in self.rows:
            if (row.metric, row.statistic) == (metric, statistic):
                return row
        raise KeyError(f"no {statistic} of {metric}")


def label(metric: str, statistic: str) -> str:
    """A statistic with its unit, for a table."""
    whole = {
        "output_rate": "output tokens/s",
        "request_rate": "requests/s",
        "duration": "duration s",
    }
    return whole.get(metric) or f"{LABELS[metric]} {statistic} ms"


def figures(real: RealRun, simulated: RealRun) -> Figures:
    """Compare two runs of the same requests.

    Raises:
        ValueError: where they have no request in common.
    """
    left, right = common(real, simulated)
    if not left:
        raise ValueError(f"{real.name} and {simulated.name} answered no request of the same id")
    rows: list[Figure] = []
    unknown: list[str] = []
    for metric in LATENCIES:
        measured, found = real.latency(metric), simulated.latency(metric)
        if metric != "itl":
            measured, found = measured[left], found[right]
            both = ~np.isnan(measured) & ~np.isnan(found)
            measured, found = measured[both], found[both]
        if not len(measured) or not len(found):
            unknown.append(metric)
            continue
        a, b = _statistics(measured / NS_PER_MS), _statistics(found / NS_PER_MS)
        rows += [Figure(metric, name, a[name], b[name]) for name in STATISTICS]
    rows += _rates(real, simulated)
    return Figures(tuple(rows), len(left), len(real.requests) - len(left), tuple(unknown))


def common(one: RealRun, other: RealRun) -> tuple[list[int], list[int]]:
    """Places of the requests that both answered, in the order of the first run."""
    places = {name: i for i, name in enumerate(other.ids)}
    pairs = [(i, places[name]) for i, name in enumerate(one.ids) if name in places]
    return [i for i, _ in pairs], [j for _, j in pairs]


def instants(run: RealRun) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Arrival, first token and end of each request in seconds, NaN where not known; each (n,)."""
    arrival = np.array(
        [np.nan if r.arrival_ns is None else r.arrival_ns for r in run.requests], np.float64
    )
    first, end = arrival + run.latency("ttft"), arrival + run.latency("e2e")
    return arrival / NS_PER_S, first / NS_PER_S, end / NS_PER_S


def _statistics(values: NDArray[np.float64]) -> dict[str, float]:
    found = {"mean": float(values.mean())}
    for name in STATISTICS[1:]:
        found[name] = float(np.percentile(values, float(name[1:])))
    return found


def _rates(real: RealRun, simulated: RealRun) -> Sequence[Figure]:
    ends = [instants(run)[2] for run in (real, simulated)]
    if any(np.isnan(e).all() for e in ends):
        return []
    spans = [float(np.nanmax(e)) for e in ends]
    if not all(spans):
        return []
    tokens = [sum(r.output_tokens for r in run.requests) for run in (real, simulated)]
    counts = [len(run.requests) for run in (real, simulated)]
    return [
        Figure("duration", "", spans[0], spans[1]),
        Figure("output_rate", "", tokens[0] / spans[0], tokens[1] / spans[1]),
        Figure("request_rate", "", counts[0] / spans[0], counts[1] / spans[1]),
    ]
