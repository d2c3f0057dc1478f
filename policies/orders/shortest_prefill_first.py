"""Shortest prefill first (SGLang, experimental there)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.orders.base import QueueOrder
from policies.orders.in_batch import held_back
from policies.registry import ORDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.orders.base import QueueView
    from policies.request import Request


@ORDERS.register("shortest-prefill-first")
class ShortestPrefillFirst(QueueOrder):
    """Whoever has the fewest tokens left to prefill is next; ties go by entry into the queue.

    The remaining work of a long prompt that is being chunked counts too: its next chunk is cut so
    that shorter waiting prefills fit into the round beside it (`chunk_limit`).

    Args:
        in_batch_check: see `in_batch.held_back`.
        in_batch_share: see `in_batch.held_back`.
    """

    cache_aware = True

    def __init__(self, *, in_batch_check: int = 32, in_batch_share: int = 32) -> None:
        self.in_batch = {"check": in_batch_check, "share": in_batch_share}
        self._work: dict[Request, tuple[bool, int]] = {}

    def arrange(self, waiting: Sequence[Request], view: QueueView) -> list[Request]:
        """See `QueueOrder.arrange`."""
        matches = [view.match(request) for request in waiting]
        last = held_back(waiting, matches, **self.in_batch)
        self._work = {
            request: (request in last, max(1, request.seq_len - min(m.length, request.seq_len - 1)))
            for request, m in zip(waiting, matches, strict=True)
        }
        return sorted(waiting, key=lambda request: (*self._work[request], request.entry))

    def chunk_limit(
        self, chunked: Request, waiting: Sequence[Request], budget: int, page_size: int
    ) -> int | None:
        """Tokens the continuing chunk may take this round, or None for all of the budget.

        Args:
            chunked: the request being chunked.
            waiting: the queue, as last arranged.
            budget: the round's chunk budget, in tokens.
            page_size: tokens a page.
        """
        remaining = chunked.seq_len - chunked.prefix_len
        reserved = 0
        for request in waiting:
            held, work = self._work[request]
            if held or work >= remaining:
                continue
            pages = -(-work // page_size) * page_size
            if reserved + pages > budget - page_size:
                break
            reserved += pages
        if reserved == 0 or budget < 2 * page_size:
            return None
        return (budget - reserved) // page_size * page_size
