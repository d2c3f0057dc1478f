"""The KV pool: how many pages are free, and, for a world that needs them, which.

`CountingPool` only counts; `IndexedPool` hands out page numbers and keeps a page table. Which page a
token lands in never influences a decision, so the two decide the same. Neither knows what is cached:
a page that the prefix cache holds is simply not free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.batch import DecodeRows

    Int32Array = npt.NDArray[np.int32]


class OutOfPagesError(RuntimeError):
    """Pages were asked for that are not free: the budgets that guard the pool are wrong."""


class KVPool(Protocol):
    """What both pools do. Lengths are in tokens; `pages` arrays are int32 page numbers or None."""

    page_size: int
    capacity: int  # tokens, a multiple of the page size
    rows: int
    free_tokens: int  # in free pages
    free_rows: int  # not taken
    indexed: bool  # whether it knows which pages, or only how many

    def take_row(self) -> int:
        """A free row, 1 to `rows`; row 0 is left for padding."""
        ...

    def give_row(self, row: int) -> None:
        """Give a row back."""
        ...

    def extend(self, row: int, have: int, want: int) -> None:
        """Give a row that has pages for `have` tokens the pages for `want` tokens."""
        ...

    def extend_round(self, rows: DecodeRows, pages: int) -> None:
        """Give the rows of a decode round their next token's page; `pages` of them need a new one."""
        ...

    def take_pages(self, pages: int) -> None:
        """Take pages for rows whose numbers are not kept; only where pages are counted."""
        ...

    def read(self, row: int, start: int, stop: int) -> Int32Array | None:
        """The pages of a row for tokens [start, stop), both page aligned; None if only counting."""
        ...

    def write(self, row: int, start: int, pages: Int32Array | None) -> None:
        """Set the pages of a row from token `start`, page aligned, on."""
        ...

    def free_range(self, row: int, start: int, stop: int) -> None:
        """Free a row's pages that hold tokens [start, stop), `start` page aligned."""
        ...

    def free_pages(self, count: int, pages: Int32Array | None) -> None:
        """Free `count` pages that the prefix cache held."""
        ...


class CountingPool:
    """A pool that only counts, for a world without memory. See `KVPool`.

    Args:
        capacity: tokens, floored to a page multiple.
        page_size: tokens a page.
        rows: requests that may hold KV at once.
    """

    indexed = False

    def __init__(self, capacity: int, page_size: int, rows: int) -> None:
        self.page_size = page_size
        self.capacity = capacity // page_size * page_size
        self.rows = rows
        self.free_tokens = self.capacity
        self.free_rows = rows
        self._rows = list(range(rows, 0, -1))  # those not taken

    def take_row(self) -> int:
        """See `KVPool`."""
        self.free_rows -= 1
        return self._rows.pop()

    def give_row(self, row: int) -> None:
        """See `KVPool`."""
        self.free_rows += 1
        self._rows.append(row)

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def take_pages(self, pages: int) -> None:
        """See `KVPool`."""
        left = self.free_tokens - pages * self.page_size
        if left < 0:
            tokens = pages * self.page_size
            msg = f"{tokens} tokens of KV asked for, {self.free_tokens} of {self.capacity} are free"
            raise OutOfPagesError(msg)
        self.free_tokens = left

    def extend(self, row: int, have: int, want: int) -> None:  # noqa: ARG002 - counts only
        """See `KVPool`."""
        size = self.page_size
        self.take_pages(-(-want // size) - -(-have // size))

    def extend_round(self, rows: DecodeRows, pages: int) -> None:  # noqa: ARG002
        """See `KVPool`."""
        self.take_pages(pages)

    def read(self, row: int, start: int, stop: int) -> None:
        """See `KVPool`."""

    def write(self, row: int, start: int, pages: Int32Array | None) -> None:
        """See `KVPool`."""

    def free_range(self, row: int, start: int, stop: int) -> None:  # noqa: ARG002
        """See `KVPool`."""
        size = self.page_size
        if stop > start:
            self.free_tokens += (-(-stop // size) - start // size) * size

    def free_pages(self, count: int, pages: Int32Array | None) -> None:  # noqa: ARG002
        """See `KVPool`."""
        self.free_tokens += count * self.page_size


class IndexedPool(CountingPool):
    """A pool of real pages. See `KVPool`.

    `table[row, i]` is the page of tokens [i * page_size, (i + 1) * page_size) of that row. Pages are
    numbered from 1; page 0 is left for padding. The page freed last is handed out first.

    Args:
        capacity: tokens, floored to a page multiple.
        page_size: tokens a page.
        rows: requests that may hold KV at once.
        max_len: tokens that one row may hold; the pool's capacity by default.
    """

    indexed = True

    def __init__(
        self, capacity: int, page_size: int, rows: int, max_len: int | None = None
    ) -> None:
        super().__init__(capacity, page_size, rows)
        width = self._pages(self.capacity if max_len is None else max_len) + 1
        self.table = np.zeros((rows + 1, width), dtype=np.int32)
        self._stack = np.arange(self.capacity // page_size, 0, -1, dtype=np.int32)

    def _pop(self, count: int) -> Int32Array:
        self.take_pages(count)
        left = self.free_tokens // self.page_size
        return self._stack[left : left + count][::-1].copy()

    def _push(self, pages: Int32Array) -> None:
        free = self.free_tokens // self.page_size
        self._stack[free : free + len(pages)] = pages
        self.free_tokens += len(pages) * self.page_size

    def extend(self, row: int, have: int, want: int) -> None:
        """See `KVPool`."""
        start, stop = self._pages(have), self._pages(want)
        self.table[row, start:stop] = self._pop(stop - start)

    def extend_round(self, rows: DecodeRows, pages: int) -> None:
        """See `KVPool`."""
        if pages == 0:
            return
        last = rows.seq_lens() - 1  # position of the token written in this round
        new = last % self.page_size == 0
        self.table[rows.cohort.rows[new], last[new] // self.page_size] = self._pop(pages)

    def read(self, row: int, start: int, stop: int) -> Int32Array:  # type: ignore[override]
        """See `KVPool`."""
        return self.table[row, start // self.page_size : stop // self.page_size].copy()

    def write(self, row: int, start: int, pages: Int32Array | None) -> None:
        """See `KVPool`."""
        if pages is None:
            msg = "an indexed pool was given no page numbers"
            raise TypeError(msg)
        at = start // self.page_size
        self.table[row, at : at + len(pages)] = pages

    def free_range(self, row: int, start: int, stop: int) -> None:
        """See `KVPool`."""
        self._push(self.table[row, start // self.page_size : self._pages(stop)])

    def free_pages(self, count: int, pages: Int32Array | None) -> None:
        """See `KVPool`."""
        if pages is None or len(pages) != count:
            msg = f"{count} pages freed, but {0 if pages is None else len(pages)} named"
            raise ValueError(msg)
        self._push(pages)
