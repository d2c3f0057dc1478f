"""The two KV pools against a plain set of pages, and against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import CountingPool, IndexedPool
from policies.kv.pool import OutOfPagesError

ROWS = 3
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(0, 9)),
        st.tuples(st.just("extend"), st.integers(0, ROWS), st.integers(1, 40)),
        st.tuples(st.just("end"), st.integers(0, ROWS), st.integers(0, 5)),
        st.tuples(st.just("evict"), st.integers(1, 5)),
    ),
    min_size=20,
)


class Pools:
    """Both pools, and the model: who holds which page."""

    def __init__(self, capacity: int, page_size: int) -> None:
        self.page_size = page_size
        self.indexed = IndexedPool(capacity, page_size, ROWS)
        self.counting = CountingPool(capacity, page_size, ROWS)
        self.all = set(range(1, capacity // page_size + 1))
        self.rows: dict[int, list[int]] = {}  # row -> its pages
        self.lengths: dict[int, int] = {}
        self.cached: list[int] = []  # pages that a cache took over

    @property
    def held(self) -> list[int]:
        return [page for pages in self.rows.values() for page in pages] + self.cached

    def start(self, shared: int) -> None:
        """A request begins, its first pages the cache's."""
        if len(self.rows) == ROWS:
            return
        row = self.indexed.take_row()
        assert row == self.counting.take_row()
        assert 1 <= row <= ROWS
        assert row not in self.rows
        pages = np.array(self.cached[:shared], dtype=np.int32)
        self.indexed.write(row, 0, pages)
        assert self.indexed.read(row, 0, len(pages) * self.page_size).tolist() == pages.tolist()
        self.rows[row] = []
        self.lengths[row] = len(pages) * self.page_size

    def extend(self, row: int, by: int) -> None:
        have = self.lengths[row]
        need = -(-(have + by) // self.page_size) - -(-have // self.page_size)
        if need > len(self.all) - len(self.held):
            for pool in (self.indexed, self.counting):
                with pytest.raises(OutOfPagesError, match="are free"):
                    pool.extend(row, have, have + by)
            return
        self.indexed.extend(row, have, have + by)
        self.counting.extend(row, have, have + by)
        first = -(-have // self.page_size)
        new = self.indexed.table[row, first : first + need].tolist()
        assert len(set(new)) == need
        assert set(new) <= self.all - set(self.held), "a page is handed out that is held"
        self.rows[row] += new
        self.lengths[row] = have + by

    def end(self, row: int, kept: int) -> None:
        """A request ends; the cache takes over its first own pages, so far as they are full."""
        own = self.rows.pop(row)
        length = self.lengths.pop(row)
        shared = -(-length // self.page_size) - len(own)
        kept = min(kept, length // self.page_size - shared)
        self.cached += own[:kept]
        start = (shared + kept) * self.page_size
        for pool in (self.indexed, self.counting):
            pool.free_range(row, start, length)
            pool.give_row(row)

    def evict(self, count: int) -> None:
        using = {row: self.lengths[row] for row in self.rows}
        if using:  # its pages may be shared with a row
            return
        gone, self.cached = self.cached[:count], self.cached[count:]
        self.indexed.free_pages(len(gone), np.array(gone, dtype=np.int32))
        self.counting.free_pages(len(gone), None)

    def check(self) -> None:
        free = (len(self.all) - len(set(self.held))) * self.page_size
        assert self.indexed.free_tokens == self.counting.free_tokens == free
        assert self.indexed.free_rows == self.counting.free_rows == ROWS - len(self.rows)
        assert len(set(self.held)) == len(self.held)
        assert 0 not in self.held


@given(st.sampled_from((1, 2, 4, 16)), st.integers(0, 12), OPERATIONS)
def test_the_pools_agree_with_a_set_of_pages(
    page_size: int, pages: int, operations: list[tuple[Any, ...]]
) -> None:
    pools = Pools(pages * page_size + page_size - 1, page_size)  # floored to whole pages
    pools.all = set(range(1, pages + 1))
    for name, *arguments in operations:
        rows = sorted(pools.rows)
        match name:
            case "start":
                pools.start(*arguments)
            case "evict":
                pools.evict(*arguments)
            case _ if rows:
                getattr(pools, name)(rows[arguments[0] % len(rows)], arguments[1])
        pools.check()


@given(st.sampled_from((1, 4, 16)), st.integers(0, 100))
def test_capacity_is_floored_to_pages(page_size: int, capacity: int) -> None:
    for kind in (CountingPool, IndexedPool):
        pool = kind(capacity, page_size, 1)
        assert pool.capacity == pool.free_tokens == capacity // page_size * page_size


def test_every_page_is_handed_out_once_and_never_the_padding_page() -> None:
    pool = IndexedPool(12, 4, 2)
    pool.extend(1, 0, 5)
    pool.extend(2, 0, 4)
    assert sorted([*pool.table[1, :2], *pool.table[2, :1]]) == [1, 2, 3]


def test_an_indexed_pool_wants_page_numbers() -> None:
    pool = IndexedPool(8, 4, 1)
    with pytest.raises(ValueError, match="2 pages freed, but 0 named"):
        pool.free_pages(2, None)
    with pytest.raises(TypeError, match="no page numbers"):
        pool.write(1, 0, None)
