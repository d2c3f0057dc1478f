"""Which pages each sequence of a step lies in: looked up where the scheduler keeps it.

One family of batchings keeps a table of pages by row, the other a list of blocks with each request. Either
way a step gets a dense table, read when it is launched: the scheduler goes on changing its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from policies.batch import Batch, DecodeRows
    from policies.kv.pool import IndexedPool
    from policies.request import Request

    Int32 = npt.NDArray[np.int32]
    Int64 = npt.NDArray[np.int64]


class Pages(Protocol):
    """Where the scheduler says which pages a request's tokens lie in."""

    def fill(self, table: Int32, batch: Batch, rows: Int64, kv_lens: Int64) -> None:
        """Write the pages of a step's sequences.

        Args:
            table: (n, width), zeros; sequence i's pages go to the front of row i.
            batch: the step.
            rows: (n,), each sequence's row.
            kv_lens: (n,), tokens that its pages hold after the step.
        """
        ...


class PoolPages:
    """Pages from the page table that an `IndexedPool` keeps."""

    def __init__(self, pool: IndexedPool) -> None:
        self._pool = pool

    def fill(self, table: Int32, batch: Batch, rows: Int64, kv_lens: Int64) -> None:  # noqa: ARG002
        """See `Pages.fill`. What lies beyond a sequence's own pages is cleared: it may be stale."""
        width = table.shape[1]
        table[:] = self._pool.table[rows, :width]
        table[np.arange(width) >= pages_of(kv_lens, self._pool.page_size)[:, None]] = 0


class BlockPages:
    """Pages from requests' sequences of blocks, mirrored in a table that follows them as they grow.

    Args:
        rows: rows that requests may have, from 1.
        page_size: tokens a block.
        max_len: tokens that one request may hold.
    """

    def __init__(self, rows: int, page_size: int, max_len: int) -> None:
        self._page_size = page_size
        self._table = np.zeros((rows + 1, max_len // page_size + 2), dtype=np.int32)
        self._lists: list[Sequence[int] | None] = [None] * (rows + 1)  # whose blocks a row mirrors
        self._known = [0] * (rows + 1)  # and how many of them

    def fill(self, table: Int32, batch: Batch, rows: Int64, kv_lens: Int64) -> None:
        """See `Pages.fill`."""
        for item in batch.prefill:
            self._follow(item.row, item.request)
        if batch.decode is not None:
            self._follow_round(batch.decode, kv_lens[len(batch.prefill) :])
        width = table.shape[1]
        table[:] = self._table[rows, :width]
        table[np.arange(width) >= pages_of(kv_lens, self._page_size)[:, None]] = 0

    def _follow_round(self, rows: DecodeRows, kv_lens: Int64) -> None:
        """Only those who start a block have a new one; the others' are known since their prefill."""
        requests, slots = rows.requests, rows.cohort.rows
        for i in np.flatnonzero((kv_lens - 1) % self._page_size == 0).tolist():
            self._follow(int(slots[i]), requests[i])

    def _follow(self, row: int, request: Request) -> None:
        blocks = request.blocks  # one of its own for each time the request holds memory
        known = self._known[row] if self._lists[row] is blocks else 0
        self._lists[row] = blocks
        if known < len(blocks):
            self._table[row, known : len(blocks)] = blocks[known:]
            self._known[row] = len(blocks)


def pages_of(tokens: Int64, page_size: int) -> Int64:
    """How many pages so many tokens take."""
    return -(-tokens // page_size)
