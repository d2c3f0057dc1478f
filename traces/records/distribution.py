"""The statistics of a set of durations, with or without weights: one code for every latency.

Percentiles are numpy's linear ones, over the values each repeated as often as its weight says,
without repeating them. Sums are exact (`math.fsum`), so the same values give the same bytes on
every machine. Knows neither units nor where the values come from.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99)

#: The fields of a `Distribution`, but for the count.
STATISTICS = ("mean", "std", "min", "p50", "p90", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Distribution:
    """Count, mean, standard deviation (of the population), extremes and percentiles."""

    count: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    def divided(self, by: float) -> Distribution:
        """The same in a larger unit: each statistic, but for the count, divided."""
        rest = {name: getattr(self, name) / by for name in STATISTICS}
        return Distribution(count=self.count, **rest)

    def to_dict(self) -> dict[str, float]:
        """The statistics by name."""
        return asdict(self)


def describe(
    values: NDArray[np.int64] | NDArray[np.float64], weights: NDArray[np.int64] | None = None
) -> Distribution | None:
    """The statistics of the values, each counted as often as its weight; None of no values.

    Args:
        values: any order, one dimension.
        weights: whole numbers >= 0, as many; None counts each value once.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    ones = np.ones(len(values), np.int64)
    counted = ones if weights is None else np.asarray(weights, np.int64)[order]
    if weights is not None:
        ordered, counted = ordered[counted > 0], counted[counted > 0]
    if len(ordered) == 0:
        return None
    upto = np.cumsum(counted)
    count = int(upto[-1])
    real = ordered.astype(np.float64)
    mean = math.fsum((real * counted).tolist()) / count
    variance = math.fsum((counted * (real - mean) ** 2).tolist()) / count
    p50, p90, p95, p99 = (_percentile(ordered, upto, p) for p in PERCENTILES)
    return Distribution(
        count, mean, math.sqrt(variance), float(ordered[0]), p50, p90, p95, p99, float(ordered[-1])
    )


def _percentile(
    ordered: NDArray[np.int64] | NDArray[np.float64], upto: NDArray[np.int64], percent: int
) -> float:
    """What `numpy.percentile` (linear) gives on the repeated values, to the bit.

    `upto[i]` is how many repeated values there are up to and including `ordered[i]`.
    """
    last = int(upto[-1]) - 1
    position = last * (percent / 100)
    below = math.floor(position)
    share = position - below
    lower, upper = np.searchsorted(upto, [below, min(below + 1, last)], side="right")
    a, b = ordered[lower].item(), ordered[upper].item()
    # numpy walks from the nearer end, which decides the last bit.
    return float(a + (b - a) * share if share < 0.5 else b - (b - a) * (1 - share))
