"""Longest output first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.orders.base import KeyOrder, QueueView
from policies.registry import ORDERS

if TYPE_CHECKING:
    from policies.request import Request


@ORDERS.register("lof")
class LongestOutputFirst(KeyOrder):
    """By the output tokens a request asks for, most first."""

    def key(self, request: Request, view: QueueView) -> int:  # noqa: ARG002
        """See `KeyOrder.key`."""
        return -request.max_new_tokens
