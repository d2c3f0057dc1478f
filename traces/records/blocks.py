"""Many rows at once: what a run of alike steps leaves behind, column by column.

Between rows that are given one by one, a block stands for as many as it has. They are made only when
their table is written, and those of all blocks together, so a thousand steps in which nothing changes
are recorded in the time of a few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    #: A column of blocks: an array as long as they are together, or the one value that all these
    #: rows have, as an enumeration's must be.
    Cells = npt.NDArray[Any] | int | str


class Block(Protocol):
    """Rows of one table that stand next to each other; of whole numbers, floats and enumerations."""

    def __len__(self) -> int: ...

    @staticmethod
    def columns(blocks: Any) -> list[Cells]:
        """The columns of the rows of all these blocks of one class, in order.

        They come in the order of the table's columns.
        """
        ...


class Places(NamedTuple):
    """Which of a table's rows were given one by one, and which in blocks.

    Attributes:
        single: intp, their indices, as they are few.
        in_blocks: bool, shape (rows,), as they stand together.
    """

    single: npt.NDArray[np.intp]
    in_blocks: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...] | Block]) -> Places:
        """The places of rows and blocks in the order in which they were given."""
        is_block = [not isinstance(row, tuple) for row in rows]
        counts = [len(row) if in_block else 1 for row, in_block in zip(rows, is_block, strict=True)]
        within = np.repeat(is_block, counts)
        return cls(np.flatnonzero(~within), within)

    def together(self, ones: npt.NDArray[Any], many: npt.NDArray[Any] | int) -> npt.NDArray[Any]:
        """One column, of the type of `ones`, from the cells of single rows and those of blocks."""
        import pyarrow as pa

        # Arrow keeps what it was given by the system; numpy would be given new pages each time.
        column = np.frombuffer(pa.allocate_buffer(len(self.in_blocks) * ones.itemsize), ones.dtype)
        column[self.in_blocks] = many
        column[self.single] = ones
        return column
