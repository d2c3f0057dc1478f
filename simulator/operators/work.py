"""Work: what an operator must do at least, as a time that only grows with its size.

A kernel computes, moves bytes, and starts and ends. None hides wholly behind the others, and beyond
the measured range their plain sum proved nearer than their maximum or a norm (decode attention on
the H200: 8 % against 15 to 19 %). Coefficients are fitted to measured tables (`fit_sum`), so they
hold what a GPU attains and not what its datasheet promises.

`Work` is of one size (tokens of a matrix product, elements of an all-reduce); `BatchWork` of a batch
of equal sequences. Between measured sizes work is the ruler that interpolation goes by; beyond them
its ratio to the last measured size carries on. It knows no table.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.shapes.mlp import power

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Work(BaseModel):
    """Nanoseconds over a size x: `floor + compute * x' + fixed + traffic * x'`.

    x' is half-way between x and the next multiple of `tile`: a product of 65 rows computes 128, but
    the larger it is the less of the last tile shows. `miss` is for experts: of the `fixed` part, the
    weights, x tokens leave the share `miss ** x` unread.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    floor: float = Field(gt=0)
    compute: float = Field(0.0, ge=0)
    fixed: float = Field(0.0, ge=0)
    traffic: float = Field(0.0, ge=0)
    tile: int = Field(1, ge=1)
    miss: float = Field(0.0, ge=0, lt=1)

    def at(self, size: float) -> float:
        """Nanoseconds at one size above 0; never smaller for a larger size."""
        tiled = 0.5 * (size + self.tile * ceil(size / self.tile))
        memory = self.fixed + self.traffic * tiled
        if self.miss:
            memory -= self.fixed * power(self.miss, round(size))
        return self.floor + self.compute * tiled + memory


class BatchWork(BaseModel):
    """Nanoseconds over `rows` sequences of one length: the sum of four times.

    `floor`; `rows` times `row`; `rows * length` times `token`; `rows * length * (length + tile)`
    times `pair`, the causal (query, key) pairs twice over, in tiles.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    floor: float = Field(gt=0)
    row: float = Field(0.0, ge=0)
    token: float = Field(0.0, ge=0)
    pair: float = Field(0.0, ge=0)
    tile: int = Field(128, ge=0)

    def at(self, rows: float, length: float) -> float:
        """Nanoseconds of one batch."""
        row = self.row * rows
        token = self.token * rows * length
        pair = self.pair * rows * length * (length + self.tile)
        return self.floor + row + token + pair

    def over(self, rows: float, lengths: Floats) -> Floats:
        """`at` of each length: the same operations in the same order, so the same bits."""
        row = self.row * rows
        token = self.token * rows * lengths
        pair = self.pair * rows * lengths * (lengths + self.tile)
        return np.asarray(self.floor + row + token + pair)


def fit_sum(terms: Floats, measured: Floats) -> Floats:
    """Coefficients c >= 0 so that the sum of `c[i] * terms[i]` is near `measured`.

    Args:
        terms: shape (parts, points), not negative.
        measured: shape (points,), above 0.

    Returns:
        Shape (parts,). Deviations are weighed by their logarithm, and large ones less.
    """
    from scipy.optimize import least_squares

    scale = 1.0 / np.median(terms, axis=1)
    parts = terms * scale[:, None]
    logs = np.log(measured)

    def residuals(x: Floats) -> Floats:
        return np.asarray(np.log((np.exp(x)[:, None] * parts).sum(axis=0)) - logs)

    start = np.full(len(terms), np.log(np.median(measured) / len(terms)))
    # a part that measurements do not show goes towards 0 for ever: bounded, it stops
    found = least_squares(
        residuals, start, loss="soft_l1", f_scale=0.1, bounds=(start - 30, start + 15)
    )
    return np.asarray(np.exp(found.x) * scale)
