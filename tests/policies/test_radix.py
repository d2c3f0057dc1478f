"""The radix tree against a list of segments that is searched by brute force."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import EVICTIONS
from policies.cache.radix import RadixCache, RadixNode

if TYPE_CHECKING:
    from collections.abc import Callable

Key = tuple[int, ...]

PAGE_SIZES = (1, 2, 4, 16)


@dataclass
class Segment:
    """What an edge of the tree stands for, named by its whole path."""

    namespace: str | None
    path: Key  # from the root to its end
    start: int
    pages: list[int]
    priority: int = 0
    locks: int = 0
    hits: int = 0
    created: int = 0
    used: int = 0

    @property
    def size(self) -> int:
        return len(self.path) - self.start

    def ends_within(self, namespace: str | None, path: Key) -> bool:
        return self.namespace == namespace and path[: len(self.path)] == self.path


FIRST: dict[str, Callable[[Segment], Any]] = {
    "lru": lambda s: s.used,
    "mru": lambda s: -s.used,
    "lfu": lambda s: (s.hits, s.used),
    "fifo": lambda s: s.created,
    "filo": lambda s: -s.created,
    "priority": lambda s: (s.priority, s.used),
    "slru": lambda s: (s.hits >= 2, s.used),
}


class Segments:
    """The naive model."""

    def __init__(self, page_size: int, eviction: str) -> None:
        self.page_size = page_size
        self.first = FIRST[eviction]
        self.all: list[Segment] = []
        self.clock = 0

    def _shared(self, segment: Segment, namespace: str | None, key: Key) -> int:
        if segment.namespace != namespace:
            return 0
        size, pages = self.page_size, 0
        while (pages + 1) * size <= min(len(key), len(segment.path)) and (
            key[: (pages + 1) * size] == segment.path[: (pages + 1) * size]
        ):
            pages += 1
        return pages * size

    def use(self, segment: Segment) -> None:
        self.clock += 1
        segment.used = self.clock

    def walk(self, namespace: str | None, key: Key) -> list[Segment]:
        """The segments that `key` runs through, used and cut where it ends."""
        length = max((self._shared(s, namespace, key) for s in self.all), default=0)
        path = [
            s
            for s in self.all
            if s.start < length and self._shared(s, namespace, key) >= min(length, len(s.path))
        ]
        path.sort(key=lambda s: s.start)
        for i, segment in enumerate(path):
            if len(segment.path) > length:
                path[i] = upper = self._cut(segment, length)
                self.use(upper)
            self.use(segment)
        return path

    def _cut(self, lower: Segment, at: int) -> Segment:
        pages = (at - lower.start) // self.page_size
        upper = Segment(
            lower.namespace,
            lower.path[:at],
            lower.start,
            lower.pages[:pages],
            lower.priority,
            lower.locks,
            lower.hits,
            lower.created,
        )
        lower.start, lower.pages = at, lower.pages[pages:]
        self.all.append(upper)
        return upper

    def insert(
        self, namespace: str | None, key: Key, pages: list[int], priority: int, inserted: int
    ) -> int:
        key = key[: len(key) // self.page_size * self.page_size]
        path = self.walk(namespace, key)
        for segment in path:
            segment.priority = max(segment.priority, priority)
            segment.hits += len(segment.path) > inserted
        matched = len(path[-1].path) if path else 0
        if matched < len(key):
            leaf = Segment(
                namespace, key, matched, pages[matched // self.page_size :], priority, hits=1
            )
            self.use(leaf)
            leaf.created = leaf.used
            self.all.append(leaf)
        return matched

    def lock(self, namespace: str | None, path: Key, by: int) -> None:
        for segment in self.all:
            if segment.ends_within(namespace, path):
                segment.locks += by

    def evict(self, tokens: int) -> list[Segment]:
        gone: list[Segment] = []
        while sum(s.size for s in gone) < tokens:
            leaves = [s for s in self.all if not s.locks and not self._goes_on(s)]
            if not leaves:
                break
            gone.append(min(leaves, key=self.first))
            self.all.remove(gone[-1])
        return gone

    def _goes_on(self, segment: Segment) -> bool:
        return any(s is not segment and segment.ends_within(s.namespace, s.path) for s in self.all)


class Pair:
    """A tree with pages, a tree that only counts, and the model, put through the same operations."""

    def __init__(self, page_size: int, eviction: str) -> None:
        self.page_size = page_size
        self.freed: list[int] = []
        self.counted = 0
        self.indexed = RadixCache(page_size, EVICTIONS.create(eviction), self._free)
        self.counting = RadixCache(page_size, EVICTIONS.create(eviction), self._count)
        self.model = Segments(page_size, eviction)
        self.locks: list[tuple[Any, Any, str | None, Key]] = []
        self._next_page = 1
        # where a sequence, or one that is longer or shorter, was found to the last time
        self.found: dict[tuple[str | None, Key], tuple[Any, Any]] = {}

    def _free(self, count: int, pages: Any) -> None:
        assert len(pages) == count
        self.freed += pages.tolist()

    def _count(self, count: int, pages: Any) -> None:
        assert pages is None
        self.counted += count

    def insert(self, namespace: str | None, key: Key, priority: int, inserted: int) -> None:
        count = len(key) // self.page_size
        pages = list(range(self._next_page, self._next_page + count))
        self._next_page += count
        tokens = np.array(key, dtype=np.int32)
        ours = self.indexed.insert(
            tokens, np.array(pages, dtype=np.int32), namespace, priority, inserted
        )
        counted = self.counting.insert(tokens, None, namespace, priority, inserted)
        theirs = self.model.insert(namespace, key, pages, priority, inserted)
        assert ours.length == counted.length == theirs
        self._check_pages(ours.node, namespace, key[: count * self.page_size])

    def match(self, namespace: str | None, key: Key, *, lock: bool) -> None:
        tokens = np.array(key, dtype=np.int32)
        found, found_counted = self.found.get((namespace, key), (None, None))
        ours = self.indexed.match(tokens, namespace, found)  # cut or evicted since, or not
        counted = self.counting.match(tokens, namespace, found_counted)
        for alike in (key, key[:-1], (*key, 3), (*key, 4)):
            self.found[namespace, alike] = ours.node, counted.node
        path = self.model.walk(namespace, key)
        assert ours.length == counted.length == (len(path[-1].path) if path else 0)
        self._check_pages(ours.node, namespace, key[: ours.length])
        if lock:
            self.indexed.lock(ours.node)
            self.counting.lock(counted.node)
            self.model.lock(namespace, key[: ours.length], 1)
            self.locks.append((ours.node, counted.node, namespace, key[: ours.length]))

    def unlock(self, which: int) -> None:
        if self.locks:
            node, counted, namespace, path = self.locks.pop(which % len(self.locks))
            self.indexed.unlock(node)
            self.counting.unlock(counted)
            self.model.lock(namespace, path, -1)

    def evict(self, tokens: int) -> None:
        self.freed.clear()
        self.counted = 0
        ours = self.indexed.evict(tokens)
        assert self.counting.evict(tokens) == ours
        gone = self.model.evict(tokens)
        assert self.freed == [page for segment in gone for page in segment.pages]
        assert self.counted == len(self.freed)
        assert ours == sum(segment.size for segment in gone)

    def _check_pages(self, node: Any, namespace: str | None, path: Key) -> None:
        on_path = [s for s in self.model.all if s.ends_within(namespace, path)]
        on_path.sort(key=lambda s: s.start)
        expected = [page for segment in on_path for page in segment.pages]
        assert len(expected) * self.page_size == len(path)
        assert self.indexed.pages(node).tolist() == expected

    def check(self) -> None:
        for tree in (self.indexed, self.counting):
            tree.check()
            assert tree.evictable == sum(s.size for s in self.model.all if not s.locks)
            assert tree.protected == sum(s.size for s in self.model.all if s.locks)
            ours = sorted((len(n), n.locks, n.hits, n.priority, n.created) for n in tree.nodes())
            assert ours == sorted(
                (s.size, s.locks, s.hits, s.priority, s.created) for s in self.model.all
            )
        for node, _, namespace, path in self.locks:  # what is held is still there
            self._check_pages(node, namespace, path)


def operations(page_size: int) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Inserts, matches, unlocks and evictions over sequences that share many prefixes."""
    whole = st.sampled_from([word for n in (1, 2, 3) for word in product((3, 4), repeat=n)])
    rest = st.just(()) | st.lists(st.sampled_from((3, 4)), max_size=2 * page_size)
    keys = st.builds(  # a page is one letter, repeated
        lambda letters, tail: (*(x for x in letters for _ in range(page_size)), *tail), whole, rest
    )
    namespaces = st.sampled_from((None, None, None, "a"))
    priorities = st.integers(-2, 2)
    inserted = st.sampled_from((0, page_size, 3 * page_size))
    insert = st.tuples(st.just("insert"), namespaces, keys, priorities, inserted)
    match = st.tuples(st.just("match"), namespaces, keys, st.sampled_from((True, True, False)))
    unlock = st.tuples(st.just("unlock"), st.integers(0, 3))
    evict = st.tuples(st.just("evict"), st.integers(1, 3 * page_size))
    return st.lists(st.one_of(insert, insert, insert, match, match, unlock, evict), min_size=15)


@pytest.mark.parametrize("eviction", FIRST)
@given(data=st.data())
def test_the_tree_does_what_a_list_of_segments_does(eviction: str, data: st.DataObject) -> None:
    page_size = data.draw(st.sampled_from(PAGE_SIZES))
    pair = Pair(page_size, eviction)
    for operation in data.draw(operations(page_size)):
        match operation:
            case "insert", namespace, key, priority, inserted:
                pair.insert(namespace, key, priority, inserted)
            case "match", namespace, key, lock:
                pair.match(namespace, key, lock=lock)
            case "unlock", which:
                pair.unlock(which)
            case "evict", tokens:
                pair.evict(tokens)
        pair.check()
    while pair.locks:
        pair.unlock(0)
    pair.evict(10**9)
    assert pair.indexed.evictable == pair.indexed.protected == 0
    assert not list(pair.indexed.nodes())


def free_nothing(count: int, pages: Any) -> None:
    """Nothing is evicted here."""


@given(
    st.sampled_from(PAGE_SIZES),
    st.lists(st.lists(st.sampled_from((3, 4)), max_size=40), max_size=8),
    st.lists(st.sampled_from((3, 4)), max_size=40),
)
def test_a_match_is_the_longest_common_prefix_in_whole_pages(
    page_size: int, sequences: list[list[int]], key: list[int]
) -> None:
    tree = RadixCache(page_size, EVICTIONS.create("lru"), free_nothing)
    for sequence in sequences:
        tree.insert(np.array(sequence, dtype=np.int32), None)

    def pages_shared(sequence: list[int]) -> int:
        whole = min(len(sequence), len(key)) // page_size
        return max(n for n in range(whole + 1) if sequence[: n * page_size] == key[: n * page_size])

    expected = max((pages_shared(s) for s in sequences), default=0) * page_size
    assert tree.match(np.array(key, dtype=np.int32)).length == expected
    assert tree.match(np.array(key, dtype=np.int32), "elsewhere").length == 0


TOKEN_LISTS = st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=24), min_size=1, max_size=8)


@pytest.mark.parametrize("eviction", ["lru", "lfu", "fifo", "filo", "priority", "slru", "mru"])
@given(page_size=st.sampled_from((1, 2)), prompts=TOKEN_LISTS, data=st.data())
def test_entering_below_a_held_path_is_entering_from_the_root(
    eviction: str, page_size: int, prompts: list[list[int]], data: st.DataObject
) -> None:
    """What a request holds need not be looked for: the two trees are the same, and shrink alike."""
    trees = [RadixCache(page_size, EVICTIONS.create(eviction), free_nothing) for _ in range(2)]
    below, plain = trees
    held: list[tuple[Any, Any]] = []
    for prompt in prompts:
        tokens = np.array(prompt, dtype=np.int32)
        first = data.draw(st.integers(0, len(prompt)))
        ours, theirs = (tree.match(tokens[:first]) for tree in trees)
        below.lock(ours.node)
        plain.lock(theirs.node)

        entered = below.insert(tokens, None, None, 1, first, ours.node)
        expected = plain.insert(tokens, None, None, 1, first)
        assert entered.length == expected.length
        prompt_end = data.draw(st.integers(0, len(prompt))) // page_size * page_size
        below.enter_again(entered.node, prompt_end, 2)
        plain.insert(tokens[:prompt_end], None, None, 2, len(prompt))

        below.lock(entered.node, ours.node)
        plain.lock(expected.node)
        plain.unlock(theirs.node)
        held.append((entered.node, expected.node))
        if data.draw(st.booleans()):
            for tree, node in zip(trees, held.pop(0), strict=True):
                tree.unlock(node)
        for tree in trees:
            tree.check()
        assert shape(below.root) == shape(plain.root)
    for ours_node, theirs_node in held:
        below.unlock(ours_node)
        plain.unlock(theirs_node)
    while plain.evictable:
        assert below.evict(1) == plain.evict(1)
        assert shape(below.root) == shape(plain.root)


def shape(node: RadixNode) -> tuple[Any, ...]:
    """A node and all below it, with everything that decides what is evicted."""
    own = (
        node.start,
        node.size,
        node.locks,
        node.hits,
        node.priority,
        node.created,
        node.last_access,
    )
    return (*own, *(shape(child) for child in node.children.values()))


def test_a_namespace_is_not_confused_with_a_token() -> None:
    tree = RadixCache(1, EVICTIONS.create("lru"), free_nothing)
    tree.insert(np.array([5, 6, 7], dtype=np.int32), None)
    tree.insert(np.array([5, 6], dtype=np.int32), None, "")
    key = np.array([5, 6, 7], dtype=np.int32)
    assert [tree.match(key, name).length for name in (None, "", "b")] == [3, 2, 0]


def test_the_cache_keeps_its_own_copy_of_tokens_and_pages() -> None:
    tree = RadixCache(1, EVICTIONS.create("lru"), free_nothing)
    tokens, pages = np.array([5, 6], dtype=np.int32), np.array([1, 2], dtype=np.int32)
    tree.insert(tokens, pages)
    tokens[:] = 0
    pages[:] = 0
    found = tree.match(np.array([5, 6], dtype=np.int32))
    assert found.length == 2
    assert tree.pages(found.node).tolist() == [1, 2]


def test_a_broken_tree_is_noticed() -> None:
    tree = RadixCache(1, EVICTIONS.create("lru"), free_nothing)
    end = tree.insert(np.array([5, 6], dtype=np.int32), None).node
    tree.check()
    tree.evictable += 1
    with pytest.raises(AssertionError, match="evictable: 3, really 2"):
        tree.check()
    tree.evictable -= 1
    end.locks = 1
    with pytest.raises(AssertionError, match="evictable: 2, really 0"):
        tree.check()


def test_what_was_known_and_is_evicted_is_not_found() -> None:
    tree = RadixCache(1, EVICTIONS.create("lru"), free_nothing)
    long, short = np.array([5, 6, 7], dtype=np.int32), np.array([5, 6], dtype=np.int32)
    tree.insert(long, None)
    tree.insert(short, None)  # cuts the path: 7 stands alone
    known = tree.match(long).node
    assert tree.match(short, None, known).length == 2
    assert tree.evict(1) == 1
    assert tree.match(long, None, known).length == 2
    assert tree.evict(2) == 2
    assert tree.match(long, None, known).length == 0
