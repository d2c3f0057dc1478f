"""Priorities: a switch over a queue order.

With priorities on, requests of a better class go first, and within a class the order underneath
decides. A waiting request may preempt running ones of a class worse by more than a threshold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.config import PriorityConfig
    from policies.orders.base import KeyOrder, QueueView
    from policies.request import Request

WORST = 2**63 - 1
"""Rank of a request that names no priority."""


class Priorities:
    """How two requests' classes compare.

    Args:
        config: section `policy.priority`.
    """

    def __init__(self, config: PriorityConfig) -> None:
        self.enabled = config.enabled
        self.preemption = config.enabled and config.preemption
        self.threshold = config.preemption_threshold
        self._sign = 1 if config.low_values_first else -1

    def rank(self, request: Request) -> int:
        """Smaller is better."""
        return WORST if request.priority is None else request.priority * self._sign

    def arrange(
        self, order: KeyOrder, waiting: Sequence[Request], view: QueueView
    ) -> list[Request]:
        """The queue by class, and within a class by the order's key."""
        return sorted(waiting, key=lambda r: (self.rank(r), order.key(r, view)))

    def victims(
        self, request: Request, running: Sequence[Request], needed: float, gain: Victim
    ) -> list[Request]:
        """The running requests to preempt for a waiting one, or none if that cannot help.

        Args:
            request: the waiting request.
            running: the running batch.
            needed: tokens of memory it lacks.
            gain: tokens of memory that preempting a request is counted as.
        """
        worst_first = sorted(running, key=lambda r: (-self.rank(r), -r.entry))
        chosen: list[Request] = []
        for candidate in worst_first:
            if self.rank(candidate) - self.rank(request) <= self.threshold:
                break
            chosen.append(candidate)
            needed -= gain(candidate)
            if needed <= 0:
                return chosen
        return []


if TYPE_CHECKING:
    from collections.abc import Callable

    Victim = Callable[[Request], float]
