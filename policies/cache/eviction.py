"""Which cached leaf goes first.

Each policy gives a leaf a key; the leaf with the smallest key is evicted, whole. `monotone` promises
that a node's key never falls while it lives, which lets the cache keep its leaves in a heap; without
the promise the leaves are sorted anew at each eviction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from policies.registry import EVICTIONS

if TYPE_CHECKING:
    from policies.cache.radix import RadixNode


class Eviction(Protocol):
    """An eviction policy."""

    monotone: bool

    def key(self, node: RadixNode) -> Any:
        """Sorts leaves: smallest is evicted first."""
        ...


@EVICTIONS.register("lru")
class LRU:
    """Least recently used."""

    monotone = True

    def key(self, node: RadixNode) -> int:
        """See `Eviction.key`."""
        return node.last_access


@EVICTIONS.register("mru")
class MRU:
    """Most recently used."""

    monotone = False

    def key(self, node: RadixNode) -> int:
        """See `Eviction.key`."""
        return -node.last_access


@EVICTIONS.register("lfu")
class LFU:
    """Least frequently used; among equals the least recently used."""

    monotone = True

    def key(self, node: RadixNode) -> tuple[int, int]:
        """See `Eviction.key`."""
        return node.hits, node.last_access


@EVICTIONS.register("fifo")
class FIFO:
    """First created."""

    monotone = True

    def key(self, node: RadixNode) -> int:
        """See `Eviction.key`."""
        return node.created


@EVICTIONS.register("filo")
class FILO:
    """Last created."""

    monotone = True

    def key(self, node: RadixNode) -> int:
        """See `Eviction.key`."""
        return -node.created


@EVICTIONS.register("priority")
class LowestPriority:
    """Lowest priority; among equals the least recently used."""

    monotone = True

    def key(self, node: RadixNode) -> tuple[int, int]:
        """See `Eviction.key`."""
        return node.priority, node.last_access


@EVICTIONS.register("slru")
class SegmentedLRU:
    """Leaves on probation before protected ones, each by least recent use.

    Args:
        protected_hits: hits that make a node protected.
    """

    monotone = True

    def __init__(self, *, protected_hits: int = 2) -> None:
        self.protected_hits = protected_hits

    def key(self, node: RadixNode) -> tuple[bool, int]:
        """See `Eviction.key`."""
        return node.hits >= self.protected_hits, node.last_access
