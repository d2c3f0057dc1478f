"""More work never takes less time: the monotone table nearest to a measured one.

Measured tables dip, by noise and because libraries change kernels from one size to the next. A
scheduler that sees a dip would find a bargain that is not there, and a curve that follows noise is a
worse guess between its points: on the H200's matrix products the monotone curve is 1 % nearer to
sizes left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def monotone(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """A table that never falls along any axis; times above 0, of any number of axes.

    One axis: isotonic regression of the logarithms (pool adjacent violators). More: half-way, by
    logarithm, between the smallest monotone table above the measured one and the largest below it.
    """
    logs = np.log(times)
    if logs.ndim == 1:
        from scipy.optimize import isotonic_regression

        return np.asarray(np.exp(isotonic_regression(logs).x))
    above, below = logs, logs
    for axis in range(logs.ndim):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    return np.asarray(np.exp(0.5 * (above + below)))
