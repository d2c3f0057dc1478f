"""From hundreds of thousands of steps to a few hundred bins of time, exactly.

A quantity that keeps its value until the next step is averaged over time by integrating it, so no
step is skipped and the cost is that of one pass. Knows numbers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traces.records.run import Run

BINS = 300


def edges(start_ns: int, end_ns: int, bins: int = BINS) -> NDArray[np.float64]:
    """The edges of that many equal bins of time, (bins + 1,), in nanoseconds."""
    return np.linspace(start_ns, max(end_ns, start_ns + 1), bins + 1)


def centres(edges_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle of each bin."""
    middle: NDArray[np.float64] = (edges_ns[1:] + edges_ns[:-1]) / 2
    return middle


def span(runs: list[Run]) -> tuple[int, int]:
    """From the first arrival of any run to the last end, in nanoseconds.

    Runs of one workload share the axis, so that they can be compared moment by moment.
    """
    starts = [int(run.requests["arrival_ns"].min()) for run in runs if len(run.requests)]
    ends = [
        int(run.requests[column].dropna().max())
        for run in runs
        for column in ("finish_ns", "arrival_ns")
        if run.requests[column].notna().any()
    ]
    return (min(starts), max(ends)) if starts else (0, 1)


def mean_over_time(
    change_ns: NDArray[np.int64], values: NDArray[np.float64], edges_ns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean over each bin of a quantity that takes `values[i]` at `change_ns[i]` and keeps it.

    Zero before the first change; the last value is kept to the end of the last bin.
    """
    if len(change_ns) == 0:
        return np.zeros(len(edges_ns) - 1)
    knots = np.append(change_ns, max(float(change_ns[-1]), edges_ns[-1]))
    area = np.concatenate([[0.0], np.cumsum(values * np.diff(knots))])
    mean: NDArray[np.float64] = np.diff(np.interp(edges_ns, knots, area)) / np.diff(edges_ns)
    return mean


def mean_by_bin(
    time_ns: NDArray[np.int64], values: NDArray[np.float64], edges_ns: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and largest of the values whose time falls in each bin; NaN where none does."""
    bins = len(edges_ns) - 1
    index = np.clip(np.searchsorted(edges_ns, time_ns, side="right") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    total = np.bincount(index, weights=values, minlength=bins)
    most = np.full(bins, -np.inf)
    np.maximum.at(most, index, values)
    some = count > 0
    nothing = np.full(bins, np.nan)
    mean = np.divide(total, count, out=nothing.copy(), where=some)
    return mean, np.where(some, most, np.nan)
