"""First come, first served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.orders.base import KeyOrder, QueueView
from policies.registry import ORDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.request import Request


@ORDERS.register("fcfs")
class FCFS(KeyOrder):
    """By entry into the queue. A retracted request enters it again, at the tail."""

    def key(self, request: Request, view: QueueView) -> int:  # noqa: ARG002
        """See `KeyOrder.key`."""
        return request.entry

    def arrange(self, waiting: Sequence[Request], view: QueueView) -> list[Request]:  # noqa: ARG002
        """The queue as it is, not copied: it may be long, and requests enter at its tail."""
        return waiting if isinstance(waiting, list) else list(waiting)
