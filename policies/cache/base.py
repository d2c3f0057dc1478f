"""What the scheduler asks of a prefix cache.

A cache owns pages: those of finished or checkpointed prefixes. Its tokens are `protected` while a
request holds them and `evictable` otherwise. It knows token ids and pages, and nothing of requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from policies.cache.prefix import TokenPrefix

    Int32Array = npt.NDArray[np.int32]


class Match(NamedTuple):
    """A prefix found, or just entered: its length in tokens and the cache's handle of its end."""

    length: int
    node: Any


NO_MATCH = Match(0, None)


class PrefixCache(Protocol):
    """Prefixes of token sequences, in namespaces (`extra_key`)."""

    evictable: int  # tokens that nobody holds
    protected: int  # tokens that requests hold
    shares: bool  # False: finds and keeps nothing, ever

    def match(
        self,
        tokens: Int32Array | TokenPrefix,
        extra_key: str | None = None,
        known: Any = None,
    ) -> Match:
        """The longest cached prefix, floored to pages. Counts as a use of it.

        Args:
            tokens: the sequence, or its int32 ids, shape (n,).
            extra_key: namespace.
            known: where an earlier match ended, of this sequence or of one that begins with it or that it
                begins with. What is still cached of that path need not be looked for.
        """
        ...

    def insert(
        self,
        tokens: Int32Array | TokenPrefix,
        pages: Int32Array | None,
        extra_key: str | None = None,
        priority: int = 0,
        inserted_len: int = 0,
        held: Any = None,
    ) -> Match:
        """Enter a sequence, floored to pages, with the pages that hold it.

        Args:
            tokens: the sequence, or its int32 ids, shape (n,).
            pages: the page numbers of the sequence, or None where pages are only counted.
            extra_key: namespace.
            priority: kept as the largest ever given to each part of the path.
            inserted_len: leading tokens whose entering is not counted as a hit again.
            held: the end of a path that the sequence begins with and that the caller holds, if it
                holds one: it need not be looked for. The caller is to lock the new end in its place.

        Returns:
            how much was there already (the caller's pages for it are not taken), and the end.
        """
        ...

    def pages(self, node: Any) -> Int32Array:
        """The page numbers of the whole path that ends at `node`."""
        ...

    def enter_again(self, node: Any, length: int, priority: int) -> None:
        """Enter the first `length` tokens of the path that ends at `node` once more, on their own.

        As `insert` does, but it counts as no hit.

        Args:
            node: the end of a path.
            length: tokens of the path, whole pages; the path is cut there.
            priority: as for `insert`.
        """
        ...

    def lock(self, node: Any, held: Any = None) -> None:
        """Protect the path that ends at `node` from eviction; locks add up.

        Args:
            node: the end of the path.
            held: a node on the path up to which the caller holds a lock, which becomes part of this one.
        """
        ...

    def unlock(self, node: Any) -> None:
        """Take one lock back."""
        ...

    def evict(self, tokens: int) -> int:
        """Free at least `tokens` tokens, or all that can be; returns how many were."""
        ...

    def check(self) -> None:
        """Raise AssertionError if the cache contradicts itself."""
        ...
