"""A distribution given by its quantiles: what a trace's lengths, gaps and ratios are drawn from.

Between two knots a value is interpolated on the asinh scale, which is linear near zero and
logarithmic far from it, so that one rule serves lengths over four decades, ratios and differences
of either sign. Fitted families (lognormals, mixtures of them) reproduce these traces less well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

PERCENTILES = (
    *(0, 1, 2, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50),
    *(55, 60, 65, 70, 75, 80, 85, 90, 95, 98, 99, 99.5, 100),
)


@dataclass(frozen=True, slots=True)
class Knots:
    """The values at `PERCENTILES`, ascending.

    Raises:
        ValueError: not one value a percentile, or values that go down.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(PERCENTILES):
            raise ValueError(f"expected {len(PERCENTILES)} knots, got {len(self.values)}")
        if list(self.values) != sorted(self.values):
            raise ValueError(f"expected ascending knots, got {self.values}")

    @classmethod
    def of(cls, sample: ArrayLike, digits: int = 4) -> Knots:
        """The knots of a sample, rounded to `digits` decimals."""
        found: Sequence[float] = np.percentile(np.asarray(sample), PERCENTILES).tolist()
        return cls(tuple(round(value, digits) for value in found))

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """The quantiles at `uniform`, of any shape, in 0..1: the inverse of the distribution."""
        scale = np.arcsinh(np.array(self.values))
        values: NDArray[np.float64] = np.sinh(np.interp(uniform * 100, PERCENTILES, scale))
        return values
