"""In-batch prefix sharing: of requests that share a prefix not cached yet, let one go ahead.

When several waiting requests begin alike and nothing of it is cached, computing one of them first
puts the prefix into the cache for all. The others are held back for this round (SGLang's in-batch
prefix caching, which asks a radix tree of those that go ahead; who begins alike is all it says).
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from policies.cache.prefix import first_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.cache.base import Match
    from policies.cache.prefix import TokenPrefix
    from policies.request import Request


def held_back(
    waiting: Sequence[Request], matches: Sequence[Match], *, check: int = 32, share: int = 32
) -> set[Request]:
    """The requests to hold back for one round.

    Args:
        waiting: the queue, in its present order.
        matches: each request's match in the prefix cache.
        check: only requests with at most that many tokens cached are looked at.
        share: a request is held back if it shares that many tokens with one before it; at least 1.
    """
    ahead: dict[tuple[str | None, int], list[TokenPrefix]] = defaultdict(list)  # by first token
    held: set[Request] = set()
    for request, match in zip(waiting, matches, strict=True):
        if match.length > check or request.seq_len < share:
            continue
        begins = first_tokens(request.tokens, share)
        others = ahead[request.extra_key, begins.id_at(0)]
        if any(begins.agreement(other, 0, share) == share for other in others):
            held.add(request)
        else:
            others.append(begins)
    return held
