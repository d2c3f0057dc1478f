"""Many rows at once: what a run of alike steps leaves behind, column by column.

Between rows that are given one by one, a block stands for as many as it counts. Each of its columns is
one value for all its rows, a value that grows by the same amount from row to row, or an array. So a
thousand decode steps in which nothing changes are recorded in the time of a few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


class Linear(NamedTuple):
    """A column whose value in row i of its block is `first + i * step`; integers."""

    first: int
    step: int


class Block(NamedTuple):
    """Rows of one table.

    Attributes:
        length: how many.
        columns: in the order of the table's columns: one value, a `Linear`, or an array of shape
            (length,).
    """

    length: int
    columns: tuple[Any, ...]


def columns_of(rows: Sequence[tuple[Any, ...] | Block], width: int) -> list[npt.NDArray[Any]]:
    """The columns of rows and blocks, in the order in which they were given.

    Args:
        rows: at least one block among them.
        width: columns of the table.

    Raises:
        ValueError: where a row or a block has another number of columns.
    """
    blocks = [row for row in rows if isinstance(row, Block)]
    single = [row for row in rows if not isinstance(row, Block)]
    counts = np.array([row.length if isinstance(row, Block) else 1 for row in rows])
    is_block = np.array([isinstance(row, Block) for row in rows])
    begins = np.cumsum(counts) - counts
    lengths = counts[is_block]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at_blocks = np.repeat(begins[is_block], lengths) + within
    at_single = begins[~is_block]
    for row in (*single, *(block.columns for block in blocks)):
        if len(row) != width:
            raise ValueError(f"a row has {len(row)} values, the table {width} columns")
    total = int(counts.sum())
    ones = list(zip(*single, strict=True)) if single else [()] * width
    columns = []
    for one, many in zip(ones, zip(*(b.columns for b in blocks), strict=True), strict=True):
        values = _expanded(many, lengths, within)
        column = np.empty(total, values.dtype)
        column[at_blocks] = values
        if len(one):
            column[at_single] = np.array(one, dtype=values.dtype)
        columns.append(column)
    return columns


def _expanded(
    given: Sequence[Any], lengths: npt.NDArray[np.int64], within: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    """One column of all blocks, row by row."""
    if any(isinstance(value, np.ndarray) for value in given):
        return np.concatenate([_array(v, n) for v, n in zip(given, lengths.tolist(), strict=True)])
    if isinstance(given[0], Linear):
        first, step = np.array(given, dtype=np.int64).T
        return np.repeat(first, lengths) + np.repeat(step, lengths) * within
    dtype = object if isinstance(given[0], str) else None
    return np.repeat(np.array(given, dtype=dtype), lengths)


def _array(value: Any, length: int) -> npt.NDArray[Any]:
    return value if isinstance(value, np.ndarray) else np.full(length, value)
