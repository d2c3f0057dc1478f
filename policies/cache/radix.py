"""A radix tree of token prefixes, after SGLang's RadixAttention (Zheng et al., NeurIPS 2024).

An edge carries a run of tokens, a whole number of pages long; children differ in their first page.
A match that ends inside an edge splits it there. Nodes on a path that a request holds are locked;
unlocked leaves may be evicted, whole, in the order that the eviction policy says.

Recency is a counter, not a clock: nodes are stamped in the order they are touched, so that on a path
the deeper node is always the more recent one.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.cache.base import Match
from policies.cache.prefix import WrittenPrefix

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from policies.cache.base import Int32Array
    from policies.cache.eviction import Eviction
    from policies.cache.prefix import TokenPrefix


class RadixNode:
    """A run of cached tokens below its parent.

    Attributes:
        tokens: what the edge to it is part of: a whole number of pages of it.
        start: where in it the edge begins, as many tokens as there are above.
        size: tokens on the edge; none once it was evicted.
        pages: the page numbers that hold them, or None where pages are only counted.
        children: by first token, or by first page where another has the same first token, or by None
            while there is one only and nobody has asked; in order of creation, and a split keeps its place.
        crowded: first tokens for which children were filed by their first page.
        locks: requests that hold it, itself or through a descendant.
        hits: times it was entered.
    """

    __slots__ = (
        "children",
        "created",
        "crowded",
        "edge",
        "hits",
        "in_heap",
        "last_access",
        "locks",
        "pages",
        "parent",
        "priority",
        "size",
        "start",
        "tokens",
    )

    def __init__(
        self,
        parent: RadixNode | None,
        edge: Hashable,
        tokens: TokenPrefix,
        start: int,
        size: int,
        pages: Int32Array | None,
    ) -> None:
        self.parent = parent
        self.edge = edge
        self.tokens = tokens
        self.start = start
        self.size = size
        self.pages = pages
        self.children: dict[Hashable, RadixNode] = {}
        self.crowded: frozenset[Hashable] = frozenset()
        self.locks = 0
        self.hits = 0
        self.priority = 0
        self.created = 0
        self.last_access = 0
        self.in_heap = False

    def __len__(self) -> int:
        return self.size


class RadixCache:
    """See the module and `PrefixCache`.

    Args:
        page_size: tokens a page.
        eviction: which leaf goes first.
        free_pages: is given the number of pages evicted, and the pages or None.
    """

    shares = True

    def __init__(
        self,
        page_size: int,
        eviction: Eviction,
        free_pages: Callable[[int, Int32Array | None], None],
    ) -> None:
        self.page_size = page_size
        self.eviction = eviction
        self.evictable = 0
        self.protected = 0
        self._free_pages = free_pages
        self._clock = 0
        self._heap: list[tuple[Any, int, RadixNode]] = []
        self._serial = count()
        self.root = RadixNode(None, None, _NOTHING, 0, 0, None)
        self.root.locks = 1
        self._no_match = Match(0, self.root)

    # -- looking up and entering --------------------------------------------------------------

    def match(
        self,
        tokens: Int32Array | TokenPrefix,
        extra_key: str | None = None,
        known: RadixNode | None = None,
    ) -> Match:
        """See `PrefixCache.match`. A match inside an edge splits it."""
        prefix = _as_prefix(tokens)
        stop = len(prefix) // self.page_size * self.page_size
        at, node = 0, self.root
        for child in self._path(known):
            if at + child.size > stop:
                break
            self._touch(child)
            node, at = child, at + child.size
        while at < stop:
            below, common, _ = self._below(node, prefix, at, stop, extra_key)
            if below is None:
                break
            node = self._enter(below, common)
            at += common
        return Match(at, node) if at else self._no_match

    def insert(
        self,
        tokens: Int32Array | TokenPrefix,
        pages: Int32Array | None,
        extra_key: str | None = None,
        priority: int = 0,
        inserted_len: int = 0,
        held: RadixNode | None = None,
    ) -> Match:
        """See `PrefixCache.insert`."""
        prefix = _as_prefix(tokens)
        stop = len(prefix) // self.page_size * self.page_size
        node, at = self.root, 0
        for node in self._path(held):  # all of it is there, and is entered as the rest below
            self._touch(node)
            node.priority = max(node.priority, priority)
            at += node.size
            if at > inserted_len:
                node.hits += 1
        while at < stop:
            below, common, edge = self._below(node, prefix, at, stop, extra_key)
            if below is None:
                leaf = self._grow(node, edge, prefix, at, stop, extra_key)
                leaf.priority = priority
                if pages is not None:
                    leaf.pages = pages[at // self.page_size : stop // self.page_size].copy()
                if held is None:
                    self._offer(leaf)
                return Match(at, leaf)
            node = self._enter(below, common)
            node.priority = max(node.priority, priority)
            at += common
            if at > inserted_len:
                node.hits += 1
        return Match(at, node)

    def enter_again(self, node: RadixNode, length: int, priority: int) -> None:
        """See `PrefixCache.enter_again`."""
        for child in self._path(node):
            common = min(child.size, length - child.start)
            if common <= 0:
                return
            entered = self._enter(child, common)
            entered.priority = max(entered.priority, priority)

    def _path(self, end: RadixNode | None) -> list[RadixNode]:
        """The nodes of the path that ends at a node, from below the root on; evicted ones left out."""
        path: list[RadixNode] = []
        while end is not None:
            if end.size:  # the root has none
                path.append(end)
            end = end.parent
        path.reverse()
        return path

    def _below(
        self,
        node: RadixNode,
        prefix: TokenPrefix,
        at: int,
        stop: int,
        extra_key: str | None,
    ) -> tuple[RadixNode | None, int, Hashable]:
        """The child with which a prefix goes on, and how many tokens they share: whole pages.

        Also what a child with the prefix's next token is filed under, unless another has taken that.
        """
        children, page = node.children, self.page_size
        if at and not children:
            return None, 0, None
        if None in children:  # the only one until now
            only = children.pop(None)
            only.edge = only.tokens.id_at(only.start)
            children[only.edge] = only
        first = prefix.id_at(at)
        # below the root a child is found by its namespace, too
        edge = first if at or extra_key is None else (extra_key, first)
        child = children.get(edge)
        shared = 0
        if child is not None:
            shared = prefix.agreement(child.tokens, at, min(at + child.size, stop))
        if shared < page and edge in node.crowded:  # others begin with the same token
            child = children.get(self._page(prefix, at, extra_key))
            if child is not None:
                shared = prefix.agreement(child.tokens, at, min(at + child.size, stop))
        return (child, shared // page * page, edge) if shared >= page else (None, 0, edge)

    def _page(self, prefix: TokenPrefix, at: int, extra_key: str | None) -> Hashable:
        """What a child is filed under if its first token is taken by another: its first page."""
        page = prefix.ids(at, at + self.page_size).tobytes()
        return page if at or extra_key is None else (extra_key, page)

    def _enter(self, child: RadixNode, common: int) -> RadixNode:
        """Step to the node that ends after `common` tokens of `child`'s edge.

        The lower part of a split counts as used too, as it does in SGLang.
        """
        node = child
        if common < child.size:
            node = self._split(child, common)
            self._touch(node)
        self._touch(child)
        return node

    def _touch(self, node: RadixNode) -> None:
        self._clock += 1
        node.last_access = self._clock

    def _split(self, node: RadixNode, at: int) -> RadixNode:
        """Cut the edge to `node` after `at` tokens; returns the new upper part."""
        parent, page = node.parent, at // self.page_size
        assert parent is not None
        pages = node.pages
        above = None if pages is None else pages[:page]
        upper = RadixNode(parent, node.edge, node.tokens, node.start, at, above)
        upper.locks, upper.hits, upper.priority = node.locks, node.hits, node.priority
        upper.created, upper.last_access = node.created, node.last_access
        parent.children[node.edge] = upper
        node.start += at
        node.size -= at
        node.edge = None
        node.pages = None if pages is None else pages[page:]
        node.parent = upper
        upper.children[None] = node
        return upper

    def _grow(
        self,
        parent: RadixNode,
        edge: Hashable,
        prefix: TokenPrefix,
        start: int,
        stop: int,
        extra_key: str | None,
    ) -> RadixNode:
        """Hang a new leaf below `parent`, for the places [start, stop); `edge` is as `_below` gives it."""
        if edge in parent.children:
            parent.crowded = parent.crowded | {edge}
            edge = self._page(prefix, start, extra_key)
        leaf = RadixNode(parent, edge, prefix.keep(start, stop), start, stop - start, None)
        parent.children[edge] = leaf
        self._clock += 1
        leaf.created = leaf.last_access = self._clock
        leaf.hits = 1
        self.evictable += stop - start
        return leaf

    def pages(self, node: RadixNode) -> Int32Array:
        """See `PrefixCache.pages`."""
        parts = []
        at: RadixNode | None = node
        while at is not None:
            if at.pages is not None:
                parts.append(at.pages)
            at = at.parent
        return np.concatenate(parts[::-1]) if parts else np.zeros(0, dtype=np.int32)

    # -- holding ------------------------------------------------------------------------------

    def lock(self, node: RadixNode, held: RadixNode | None = None) -> None:
        """See `PrefixCache.lock`."""
        at = node
        while at is not held and at.parent is not None:
            if not at.locks:
                self.evictable -= at.size
                self.protected += at.size
            at.locks += 1
            at = at.parent

    def unlock(self, node: RadixNode) -> None:
        """See `PrefixCache.unlock`."""
        at = node
        while at.parent is not None:
            at.locks -= 1
            if at.locks == 0:
                self.evictable += at.size
                self.protected -= at.size
                if not at.children:
                    self._offer(at)
            at = at.parent

    # -- evicting -----------------------------------------------------------------------------

    def _offer(self, node: RadixNode) -> None:
        """Put a leaf that has become free to be evicted into the heap of those, if it is not there."""
        if not node.in_heap:
            node.in_heap = True
            heapq.heappush(self._heap, (self.eviction.key(node), next(self._serial), node))

    def evict(self, tokens: int) -> int:
        """See `PrefixCache.evict`. Leaves go whole, so more than asked for may be freed."""
        if not self.eviction.monotone:
            self._heap = [(self.eviction.key(node), i, node) for _, i, node in self._heap]
            heapq.heapify(self._heap)
        freed, heap, key_of = 0, self._heap, self.eviction.key
        while freed < tokens and heap:
            key, serial, node = heap[0]
            free = not node.locks and not node.children
            if free and (current := key_of(node)) != key:  # touched since it was offered
                heapq.heapreplace(heap, (current, serial, node))
                continue
            heapq.heappop(heap)
            node.in_heap = False  # offered again if it becomes a free leaf again
            if free:
                freed += node.size
                self._remove(node)
        return freed

    def _remove(self, leaf: RadixNode) -> None:
        parent = leaf.parent
        assert parent is not None
        del parent.children[leaf.edge]
        self.evictable -= leaf.size
        self._free_pages(leaf.size // self.page_size, leaf.pages)
        leaf.size = 0
        if not parent.children and not parent.locks:
            self._offer(parent)

    # -- checking -----------------------------------------------------------------------------

    def nodes(self) -> Iterator[RadixNode]:
        """All nodes but the root, parents before children."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def check(self) -> None:
        """See `PrefixCache.check`."""
        evictable = protected = 0
        offered = {id(node) for _, _, node in self._heap}
        for node in self.nodes():
            assert node.size > 0, "an edge has no tokens"
            assert node.size % self.page_size == 0, "an edge is not a whole number of pages"
            assert node.pages is None or len(node.pages) * self.page_size == node.size
            assert node.parent is not None
            assert node.parent.children.get(node.edge) is node, "a child is filed wrongly"
            held = sum(child.locks for child in node.children.values())
            assert node.locks >= held, "a child is locked more often than its parent"
            if node.locks:
                protected += node.size
            else:
                evictable += node.size
                assert node.children or id(node) in offered, "a free leaf cannot be evicted"
        assert evictable == self.evictable, f"evictable: {self.evictable}, really {evictable}"
        assert protected == self.protected, f"protected: {self.protected}, really {protected}"


_NOTHING = WrittenPrefix(np.zeros(0, dtype=np.int32))


def _as_prefix(tokens: Int32Array | TokenPrefix) -> TokenPrefix:
    return WrittenPrefix(tokens) if isinstance(tokens, np.ndarray) else tokens
