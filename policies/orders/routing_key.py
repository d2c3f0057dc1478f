"""Requests whose routing key runs already come first (SGLang)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from policies.orders.base import QueueOrder
from policies.registry import ORDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.orders.base import QueueView
    from policies.request import Request


@ORDERS.register("routing-key")
class RoutingKey(QueueOrder):
    """By how many running requests have the same routing key, most first, then by the key.

    Requests whose key does not run follow, by key. While no running request has a key, the queue is
    left as it is.
    """

    def arrange(self, waiting: Sequence[Request], view: QueueView) -> list[Request]:
        """See `QueueOrder.arrange`."""
        running = Counter(r.routing_key for r in view.running if r.routing_key)
        if not running:
            return list(waiting)

        def place(request: Request) -> tuple[int, int, str]:
            key = request.routing_key or ""
            return (0, -running[key], key) if key in running else (1, 0, key)

        return sorted(waiting, key=place)
