"""In-batch prefix sharing: of requests that share a prefix not cached yet, let one go ahead.

When several waiting requests begin alike and nothing of it is cached, computing one of them first
puts the prefix into the cache for all. The others are held back for this round (SGLang's in-batch
prefix caching).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.cache.eviction import LRU
from policies.cache.prefix import first_tokens
from policies.cache.radix import RadixCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.cache.base import Int32Array, Match
    from policies.request import Request


def held_back(
    waiting: Sequence[Request], matches: Sequence[Match], *, check: int = 32, share: int = 32
) -> set[Request]:
    """The requests to hold back for one round.

    Args:
        waiting: the queue, in its present order.
        matches: each request's match in the prefix cache.
        check: only requests with at most that many tokens cached are looked at.
        share: a request is held back if it shares that many tokens with one before it.
    """
    held: set[Request] = set()
    new = [r for r, match in zip(waiting, matches, strict=True) if match.length <= check]
    if len(new) < 2:
        return held  # nobody is ahead of another
    ahead = RadixCache(1, LRU(), _keep)
    for request in new:
        tokens = first_tokens(request.tokens, request.seq_len)
        found = ahead.match(tokens, request.extra_key)
        if found.length >= share:
            held.add(request)
        else:
            ahead.insert(tokens, None, request.extra_key, held=found.node)
    return held


def _keep(count: int, pages: Int32Array | None) -> None:
    """Nothing is ever evicted from the tree of one round."""
