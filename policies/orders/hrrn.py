"""Highest response ratio next, with prefix-aware work (SGLang)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from policies.orders.base import QueueOrder
from policies.orders.in_batch import held_back
from policies.registry import ORDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.cache.base import Match
    from policies.orders.base import QueueView
    from policies.request import Request


@ORDERS.register("hrrn")
class HighestResponseRatioNext(QueueOrder):
    """Whoever has waited longest for its work is next.

    Waiting is measured in prefill tokens processed since a request came, work in its prompt tokens
    that are not cached. Ties go by request id.

    Args:
        fallback_queue: a queue longer than this is left as it is.
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
            return list(waiting)
        matches = [view.match(request) for request in waiting]
        last = held_back(waiting, matches, **self.in_batch)
        key = {
            request: (inf if request in last else -_ratio(request, match, view), request.id)
            for request, match in zip(waiting, matches, strict=True)
        }
        return sorted(waiting, key=key.__getitem__)


def _ratio(request: Request, match: Match, view: QueueView) -> float:
    """Waiting over work; infinite for a request with no work."""
    cached = min(match.length, request.seq_len - 1)
    work = max(0, request.prompt_len - cached)
    waited = view.processed_tokens - request.arrival_processed_tokens
    return waited / work if work else inf
