"""A random order: the control to compare an order with."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from policies.orders.base import QueueOrder
from policies.registry import ORDERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.orders.base import QueueView
    from policies.request import Request


@ORDERS.register("random")
class RandomOrder(QueueOrder):
    """The queue is shuffled before each prefill.

    Args:
        seed: of the shuffles; the same seed gives the same run.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def arrange(self, waiting: Sequence[Request], view: QueueView) -> list[Request]:  # noqa: ARG002
        """See `QueueOrder.arrange`."""
        shuffled = list(waiting)
        self._random.shuffle(shuffled)
        return shuffled
