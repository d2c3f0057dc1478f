"""Longest prefix match (Zheng et al., "SGLang", NeurIPS 2024)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from policies.orders.base import QueueOrder
from policies.orders.in_batch import held_back
from policies.registry import ORDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.orders.base import QueueView
    from policies.request import Request


@ORDERS.register("lpm")
class LongestPrefixMatch(QueueOrder):
    """Whoever has most of its tokens in the prefix cache is next.

    Args:
        fallback_queue: a queue longer than this is left as it is: matching it would take too long.
        in_batch_check: see `in_batch.held_back`.
        in_batch_share: see `in_batch.held_back`.
    """

    cache_aware = True

    def __init__(
        self, *, fallback_queue: int = 128, in_batch_check: int = 32, in_batch_share: int = 32
    ) -> None:
        self.fallback_queue = fallback_queue
        self.in_batch = {"check": in_batch_check, "share": in_batch_share}

    def arrange(self, waiting: Sequence[Request], view: QueueView) -> list[Request]:
        """See `QueueOrder.arrange`."""
        if not self.looks_at_cache(waiting):
            return waiting if isinstance(waiting, list) else list(waiting)
        matches = [view.match(request) for request in waiting]
        if len(waiting) < 2:  # nothing to sort; its match was a use of what it found
            return list(waiting)
        last = held_back(waiting, matches, **self.in_batch)
        gain = {
            request: -inf if request in last else min(match.length, request.seq_len - 1)
            for request, match in zip(waiting, matches, strict=True)
        }
        return sorted(waiting, key=lambda request: -gain[request])
