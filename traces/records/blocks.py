"""Many rows at once: what a run of alike steps leaves behind, column by column.

Between rows that are given one by one, a block stands for as many as it has. They are made only when
their table is written, and those of all blocks together, so a thousand steps in which nothing changes
are recorded in the time of a few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


class Block(Protocol):
    """Rows of one table that stand next to each other."""

    def __len__(self) -> int: ...

    @staticmethod
    def columns(blocks: Any) -> list[npt.NDArray[Any]]:
        """The columns of the rows of all these blocks of one class, in order.

        Each is an array as long as the blocks together; they come in the order of the table's columns.
        """
        ...


def columns_of(rows: Sequence[tuple[Any, ...] | Block]) -> list[npt.NDArray[Any]]:
    """The columns of rows and blocks, in the order in which they were given.

    Args:
        rows: as wide as the table each; at least one block among them, and all blocks of one class.
    """
    single = [row for row in rows if isinstance(row, tuple)]
    blocks = [row for row in rows if not isinstance(row, tuple)]
    is_block = np.array([not isinstance(row, tuple) for row in rows])
    counts = np.ones(len(rows), dtype=np.int64)
    counts[is_block] = lengths = np.array([len(block) for block in blocks])
    begins = np.cumsum(counts) - counts
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at_blocks = np.repeat(begins[is_block], lengths) + within
    at_single = begins[~is_block]
    many = type(blocks[0]).columns(blocks)
    ones = list(zip(*single, strict=True)) if single else [()] * len(many)
    columns = []
    for one, values in zip(ones, many, strict=True):
        column = np.empty(int(counts.sum()), values.dtype)
        column[at_blocks] = values
        if len(one):
            column[at_single] = np.array(one, dtype=values.dtype)
        columns.append(column)
    return columns
