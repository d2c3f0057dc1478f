"""Kriging: what a kernel takes where it was not measured, from where it was.

A Gaussian process over the logarithm of measured over work, in the logarithms of the sizes, with an
exponential covariance: deviations from the physical form are alike for alike sizes. Near
measurements it follows them, far from all it falls back on the form. It runs when curves are made,
never in a query.

Covariance falls with distance, or with each axis on its own (`separable`): the product of one
exponential for each axis. The product suits many axes that differ one or two at a time, where each
may hold a step of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def krige(
    at: Floats,
    values: Floats,
    wanted: Floats,
    *,
    scales: Floats,
    noise: float,
    separable: bool = False,
) -> Floats:
    """Values where they are wanted.

    Args:
        at: where values are known, shape (points, axes).
        values: known values, shape (points,) or (points, several).
        wanted: shape (queries, axes).
        scales: how far values stay alike along each axis.
        noise: variance of a measurement, as a share of that of the values.
        separable: whether differences add up axis by axis, and not as a distance.

    Returns:
        Shape (queries,) or (queries, several).
    """
    from scipy.linalg import cho_factor, cho_solve

    here, there = at / scales, wanted / scales
    apart = _along_axes if separable else _straight
    factor = cho_factor(np.exp(-apart(here, here)) + noise * np.eye(len(here)))
    middle = np.median(values, axis=0)
    return np.asarray(middle + np.exp(-apart(there, here)) @ cho_solve(factor, values - middle))


def _straight(a: Floats, b: Floats) -> Floats:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _along_axes(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.abs(a[:, None] - b[None]).sum(axis=2))
