"""No prefix cache: every prompt is computed from its first token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from policies.cache.base import NO_MATCH, Match

if TYPE_CHECKING:
    from policies.cache.base import Int32Array
    from policies.cache.prefix import TokenPrefix


class NoCache:
    """Finds nothing, keeps nothing. See `PrefixCache`."""

    evictable = 0
    protected = 0
    shares = False

    def match(
        self,
        tokens: Int32Array | TokenPrefix,  # noqa: ARG002
        extra_key: str | None = None,  # noqa: ARG002
        known: Any = None,  # noqa: ARG002
    ) -> Match:
        """Nothing."""
        return NO_MATCH

    def insert(
        self,
        tokens: Int32Array | TokenPrefix,  # noqa: ARG002
        pages: Int32Array | None,  # noqa: ARG002
        extra_key: str | None = None,  # noqa: ARG002
        priority: int = 0,  # noqa: ARG002
        inserted_len: int = 0,  # noqa: ARG002
        held: Any = None,  # noqa: ARG002
    ) -> Match:
        """Nothing is kept: the caller goes on owning its pages."""
        return NO_MATCH

    def pages(self, node: Any) -> Int32Array:  # noqa: ARG002
        """None."""
        return np.zeros(0, dtype=np.int32)

    def enter_again(self, node: Any, length: int, priority: int) -> None:
        """Nothing is there."""

    def lock(self, node: Any, held: Any = None) -> None:
        """Nothing to hold."""

    def unlock(self, node: Any) -> None:
        """Nothing to let go."""

    def evict(self, tokens: int) -> int:  # noqa: ARG002
        """Nothing to evict."""
        return 0

    def check(self) -> None:
        """Always sound."""
