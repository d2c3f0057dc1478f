"""How alike workloads are: their figures side by side, and how far their distributions are apart.

For holding a generated workload against the trace it was fitted to. The distance is Kolmogorov and
Smirnov's: the largest difference between two distribution functions, from 0 (the same) to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from traces.inspect import Measured

_DISTRIBUTIONS = {
    "input": "inputs",
    "output": "outputs",
    "inter-arrival": "gaps_s",
    "requests of a session": "session_requests",
    "wait after an answer": "waits_s",
}


def ks_distance(one: NDArray[Any], other: NDArray[Any]) -> float | None:
    """Largest difference between two samples' distribution functions; None if either is empty."""
    if not len(one) or not len(other):
        return None
    values = np.unique(np.concatenate((one, other)))
    below, expected = (
        np.searchsorted(np.sort(sample), values, side="right") / len(sample)
        for sample in (one, other)
    )
    return float(np.abs(below - expected).max())


def distances(one: Measured, other: Measured) -> dict[str, float | None]:
    """The distance between two workloads in each of their distributions."""
    return {
        label: ks_distance(getattr(one, name), getattr(other, name))
        for label, name in _DISTRIBUTIONS.items()
    }


def side_by_side(several: Sequence[Measured]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table: a column each, and their distances to the first.

    Raises:
        ValueError: figures that cannot be compared, because blocks have different sizes.
    """
    sizes = {one.reuse.block_size for one in several}
    if len(sizes) > 1:
        raise ValueError(
            f"blocks of {sorted(sizes)} tokens cannot be compared: give one block size"
        )
    tables = [one.summary().table() for one in several]
    rows = [
        [label, *(table[row][1] for table in tables)] for row, (label, _) in enumerate(tables[0])
    ]
    first, *others = several
    if others:
        apart = [distances(first, other) for other in others]
        for label in _DISTRIBUTIONS:
            found = [one[label] for one in apart]
            shown = ("-" if value is None else f"{value:.3f}" for value in found)
            rows.append([f"KS distance, {label}", "", *shown])
    return ["", *(one.name for one in several)], rows
