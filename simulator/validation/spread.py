"""What a real system differs from itself: several runs of the same requests.

An error of the simulator means little where two runs of the real system differ by as much. Of each
statistic this tells the real runs' own range, and whether the simulated value lies in it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.validation.figures import Figures


@dataclass(frozen=True, slots=True)
class Spread:
    """A statistic over repeated real runs, beside the simulated value.

    Attributes:
        metric, statistic: as in `Figure`.
        lowest, highest, mean: of the real runs.
        simulated: the mean over simulations of each.
    """

    metric: str
    statistic: str
    lowest: float
    highest: float
    mean: float
    simulated: float

    @property
    def spread(self) -> float:
        """Half the real runs' range, as a share of their mean; NaN where that is 0."""
        return (self.highest - self.lowest) / 2 / self.mean if self.mean else float("nan")

    @property
    def error(self) -> float:
        """The simulated value's difference to the real mean, as a share of it."""
        return self.simulated / self.mean - 1 if self.mean else float("nan")

    @property
    def within(self) -> bool:
        """Whether the simulated value lies in the real runs' range."""
        return self.lowest <= self.simulated <= self.highest

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self) | {"spread": self.spread, "error": self.error, "within": self.within}


def spreads(pairs: Sequence[Figures]) -> list[Spread]:
    """Of each statistic, over the comparisons of repeated real runs with their simulations.

    Raises:
        ValueError: for fewer than two.
    """
    if len(pairs) < 2:
        raise ValueError(
            f"{len(pairs)} real run has no spread; give two or more of the same requests"
        )
    found = []
    for first in pairs[0].rows:
        try:
            rows = [pair.of(first.metric, first.statistic) for pair in pairs]
        except KeyError:
            continue
        real = [row.real for row in rows]
        made = [row.simulated for row in rows]
        mean, simulated = sum(real) / len(real), sum(made) / len(made)
        found.append(Spread(first.metric, first.statistic, min(real), max(real), mean, simulated))
    return found
