"""A distribution given by its quantiles: what a trace's lengths, gaps and ratios are drawn from.

Between two knots a value is interpolated on the asinh scale, which is linear near zero and
logarithmic far from it, so that one rule serves lengths over four decades, ratios and differences
of either sign. Fitted families (lognormals, mixtures of them) reproduce these traces less well.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import model_validator

from traces.generate.options import Number, Options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

PERCENTILES = (
    *(0, 1, 2, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50),
    *(55, 60, 65, 70, 75, 80, 85, 90, 95, 98, 99, 99.5, 100),
)


class Knots(Options):
    """Values, ascending, and the percentiles they stand at.

    Attributes:
        values: in the unit of what is drawn.
        percentiles: from 0 to 100, ascending; by default those of `PERCENTILES`.
    """

    kind: Literal["knots"] = "knots"
    values: tuple[Number, ...]
    percentiles: tuple[Number, ...] = PERCENTILES

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        places = self.percentiles
        if len(self.values) != len(places):
            raise ValueError(
                f"expected {len(places)} knots, one a percentile, got {len(self.values)}"
            )
        if list(self.values) != sorted(self.values):
            raise ValueError(f"expected ascending knots, got {self.values}")
        strictly = all(one < other for one, other in pairwise(places))
        if not (strictly and len(places) > 1 and places[0] == 0 and places[-1] == 100):
            raise ValueError(f"expected ascending percentiles from 0 to 100, got {places}")
        return self

    @classmethod
    def of(
        cls, sample: ArrayLike, digits: int = 4, percentiles: Sequence[float] = PERCENTILES
    ) -> Knots:
        """The knots of a sample, rounded to `digits` decimals."""
        found: Sequence[float] = np.percentile(np.asarray(sample), percentiles).tolist()
        values = tuple(round(value, digits) for value in found)
        return cls(values=values, percentiles=tuple(percentiles))

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """The quantiles at `uniform`, of any shape, in 0..1: the inverse of the distribution."""
        scale = np.arcsinh(np.array(self.values))
        values: NDArray[np.float64] = np.sinh(np.interp(uniform * 100, self.percentiles, scale))
        return values
