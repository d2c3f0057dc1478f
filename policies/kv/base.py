"""What the scheduler asks of KV memory, whichever way a batching strategy keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policies.cache.base import Match
    from policies.request import Request


class Memory(Protocol):
    """KV memory. Sizes are in tokens."""

    page_size: int

    @property
    def capacity(self) -> int:
        """Tokens in all, whole pages."""
        ...

    @property
    def free(self) -> int:
        """Tokens in pages that hold nothing of use."""
        ...

    @property
    def evictable(self) -> int:
        """Tokens cached that no request holds."""
        ...

    @property
    def protected(self) -> int:
        """Tokens cached that requests hold."""
        ...

    @property
    def evicted_tokens(self) -> int:
        """Tokens that were cached and made way, in all."""
        ...

    def match_whole(self, request: Request) -> Match:
        """The cached prefix of all of a request's tokens, for queue orders."""
        ...

    def finish(self, request: Request) -> None:
        """A request ended: let go of everything; what it computed may stay cached."""
        ...

    def release(self, request: Request) -> None:
        """Let go of everything a request holds; nothing more of it is cached."""
        ...

    def check(self, holders: Iterable[Request]) -> None:
        """Raise AssertionError unless everything is accounted for.

        Args:
            holders: every request that may hold memory.
        """
        ...
