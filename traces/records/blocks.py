"""Many rows at once: what a run of alike steps leaves behind, column by column.

Between rows that are given one by one, a block stands for as many as it has. They are made only when
their table is written, and those of all blocks together, so a thousand steps in which nothing changes
are recorded in the time of a few.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    #: A column of blocks: an array as long as they are together, or the one value that all these
    #: rows have, as an enumeration's must be.
    Cells = npt.NDArray[Any] | int | str


_PACKED = {"int64": "q", "float64": "d", "int8": "b"}


def numbers(
    values: Sequence[float], kind: Literal["int64", "float64", "int8"] = "int64"
) -> npt.NDArray[Any]:
    """Python's numbers as an array, read-only. `struct` takes them in half of numpy's time.

    Raises:
        struct.error: where one is none of this kind.
    """
    return np.frombuffer(struct.pack(f"{len(values)}{_PACKED[kind]}", *values), kind)


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
    def of(cls, alone: Sequence[bool], lengths: Sequence[int]) -> Places:
        """The places of rows and blocks in the order in which they were given.

        Args:
            alone: whether each is a row.
            lengths: of the others, which are blocks.
        """
        single = np.array(alone)
        counts = np.ones(len(single), dtype=np.int64)
        counts[~single] = lengths
        single = np.repeat(single, counts)
        return cls(np.flatnonzero(single), ~single)

    def together(self, ones: npt.NDArray[Any], many: npt.NDArray[Any] | int) -> npt.NDArray[Any]:
        """One column, of the type of `ones`, from the cells of single rows and those of blocks."""
        import pyarrow as pa

        # Arrow keeps what it was given by the system; numpy would be given new pages each time.
        column = np.frombuffer(pa.allocate_buffer(len(self.in_blocks) * ones.itemsize), ones.dtype)
        column[self.in_blocks] = many
        column[self.single] = ones
        return column
