"""Nonnegative least squares on relative errors that a few odd steps cannot bend.

What is fitted is the mean of a time whose spread grows with it: residuals are divided by the fitted
time, not by the measured one, which would pull every fit below the mean. The first round divides by
the measured time, so that a step a thousand times too slow (a kernel being compiled) weighs no more
than one that is missing; from it follows which steps are outliers, and they are left out thereafter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SPREADS: Final = 8.0
"""An outlier's ratio of measured to fitted time is so many spreads from its like (of the logarithm)."""
LEAST_RATIO: Final = 1.5
"""And at least so far off."""
MOST_LEFT_OUT: Final = 0.05
"""Where more of a group would be outliers, the form does not fit the group, and all of it is kept."""
ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients, and which rows they stand on.

    Attributes:
        theta: float64, shape (columns,), each 0 or more.
        kept: bool, shape (rows,).
    """

    theta: Floats
    kept: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prior:
    """What coefficients are drawn towards.

    Attributes:
        theta: float64, shape (columns,).
        strength: float64, shape (columns,): weight of a relative error of 1 in a coefficient times
            its strength; 0 leaves it free.
    """

    theta: Floats
    strength: Floats


def fit_mean(
    columns: Floats,
    times: Floats,
    groups: NDArray[np.int64],
    *,
    weights: Floats | None = None,
    prior: Prior | None = None,
    kept: NDArray[np.bool_] | None = None,
) -> Fit:
    """Coefficients of columns, none below 0, whose sum is the mean of the times.

    Args:
        columns: float64, shape (rows, columns), none below 0.
        times: float64, shape (rows,), none below 0.
        groups: int64, shape (rows,): outliers are looked for among rows of the same group.
        weights: float64, shape (rows,), of each row; all alike when left out.
        prior: what to draw coefficients towards.
        kept: which rows to use; when left out, all but the outliers that are found.
    """
    floor = max(1.0, 0.05 * float(np.median(times)))
    given = np.ones(len(times)) if weights is None else np.sqrt(weights)
    if kept is None:
        theta = _solve(columns, times, given / np.maximum(times, floor), prior)
        kept = np.ones(len(times), dtype=bool)
        for _ in range(2):
            kept = ~_outliers(times, np.maximum(columns @ theta, floor), groups, floor)
            row = given * kept / np.maximum(columns @ theta, floor)
            theta = _solve(columns, times, row, prior)
    else:
        row = given * kept / np.maximum(times, floor)
        theta = _solve(columns, times, row, prior)
    for _ in range(ROUNDS):
        before = theta
        row = given * kept / np.maximum(columns @ theta, floor)
        theta = _solve(columns, times, row, prior)
        if np.allclose(theta, before, rtol=1e-6):
            break
    return Fit(theta, kept)


def _solve(columns: Floats, times: Floats, row: Floats, prior: Prior | None) -> Floats:
    from scipy.optimize import nnls

    weighted = columns * row[:, None]
    scale = np.sqrt(np.einsum("ij,ij->j", weighted, weighted))
    scale[scale == 0] = 1.0
    weighted /= scale
    gram, goal = weighted.T @ weighted, weighted.T @ (times * row)
    # a little towards nothing, so that columns which say the same share what they explain
    gram[np.diag_indices_from(gram)] += 1e-8
    if prior is not None:
        drawn = prior.strength / scale
        gram[np.diag_indices_from(gram)] += drawn * drawn
        goal += drawn * prior.strength * prior.theta
    # least squares by its normal equations: as many rows as columns, however many steps there are
    factor = np.linalg.cholesky(gram).T
    theta, _ = nnls(factor, np.linalg.solve(factor.T, goal), maxiter=100 * len(goal))
    found: Floats = theta / scale
    return found


def _outliers(
    times: Floats, fitted: Floats, groups: NDArray[np.int64], floor: float
) -> NDArray[np.bool_]:
    logs = np.log(np.maximum(times, 0.1 * floor) / fitted)
    found = np.zeros(len(times), dtype=bool)
    for group in np.unique(groups):
        mine = groups == group
        middle = np.median(logs[mine])
        spread = 1.4826 * np.median(np.abs(logs[mine] - middle))
        far = max(SPREADS * max(spread, 0.02), float(np.log(LEAST_RATIO)))
        odd = np.abs(logs - middle) > far
        odd &= mine
        if odd.sum() <= max(MOST_LEFT_OUT * mine.sum(), 1):
            found |= odd
    return found
