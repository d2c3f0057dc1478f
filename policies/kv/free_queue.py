"""The queue of free blocks: taken from the head, returned to either end, left from the middle.

The blocks stand one behind the other in an array, with a hole where one left from the middle, and each
knows its place. So whole groups come and go in a few array operations, however long they are. Holes are
skipped when the head comes by; where an end of the array is reached, what is left moves to its middle.

Why a block is free, and why it goes to which end, is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]

_HOLE = 0


class FreeQueue:
    """See the module. Blocks are numbered from 1, and all are in the queue at first, in order.

    Args:
        blocks: how many there are.

    Attributes:
        length: how many are in the queue.
    """

    def __init__(self, blocks: int) -> None:
        self._row = np.zeros(4 * blocks + 64, dtype=np.int64)
        self._place = np.zeros(blocks + 1, dtype=np.int64)  # of each block that is in the queue
        self._head = self._tail = len(self._row) // 2
        self.length = 0
        self.append(np.arange(1, blocks + 1, dtype=np.int64))

    def blocks(self) -> Int64Array:
        """All blocks from the head: int64, shape (len,)."""
        row = self._row[self._head : self._tail]
        blocks: Int64Array = row[row != _HOLE]
        return blocks

    def pop(self, count: int) -> Int64Array:
        """Take blocks from the head: int64, shape (count,).

        Raises:
            IndexError: where there are fewer.
        """
        if count > self.length:
            raise IndexError(f"{count} blocks asked for, {self.length} are free")
        stop = self._head + count
        taken = self._row[self._head : stop].copy()
        if self._tail - self._head > self.length and np.count_nonzero(taken) < count:
            # look further, past the holes
            ahead = count
            taken = taken[:0]
            while len(taken) < count:
                ahead *= 2
                row = self._row[self._head : min(self._head + ahead, self._tail)]
                taken = row[row != _HOLE][:count]
            stop = int(self._place[taken[-1]]) + 1
        self._head = stop
        self.length -= count
        return taken

    def append(self, blocks: Int64Array) -> None:
        """Put blocks behind the tail, the last one last."""
        count = len(blocks)
        if self._tail + count > len(self._row):
            self._move_to_the_middle()
        stop = self._tail + count
        self._row[self._tail : stop] = blocks
        self._place[blocks] = np.arange(self._tail, stop)
        self._tail = stop
        self.length += count

    def push_front(self, blocks: Int64Array) -> None:
        """Put blocks before the head, the first one first."""
        count = len(blocks)
        if self._head < count:
            self._move_to_the_middle()
        start = self._head - count
        self._row[start : self._head] = blocks
        self._place[blocks] = np.arange(start, self._head)
        self._head = start
        self.length += count

    def remove(self, blocks: Int64Array) -> None:
        """Let blocks leave, wherever they stand."""
        self._row[self._place[blocks]] = _HOLE
        self.length -= len(blocks)

    def _move_to_the_middle(self) -> None:
        """Close the holes, and leave room at both ends for as many blocks as there are."""
        blocks = self.blocks()
        self._head = (len(self._row) - len(blocks)) // 2
        self._tail = self._head + len(blocks)
        self._row[self._head : self._tail] = blocks
        self._place[blocks] = np.arange(self._head, self._tail)
