"""Load: what arrives when. Written once, asked by either world.

A load is a workload's own logic. The tape of `OpenLoop` comes at its own times, whatever the server
does. Load that waits for answers is told when requests end, and may then have more to send.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from traces.workload import TraceRequest


class Load(Protocol):
    """What a world asks about what comes in. Times are nanoseconds of the world's clock."""

    def next_ns(self) -> int | None:
        """When something comes in next, as far as is known; None if nothing will."""
        ...

    def take(self, now_ns: int) -> tuple[list[TraceRequest], list[str]]:
        """What has come in until now and was not taken yet: requests, and ids of those given up."""
        ...

    def ended(self, request_id: str, now_ns: int) -> None:
        """A request ended, in whatever way."""
        ...


class OpenLoop:
    """Requests at the times their trace gives, and aborts when their clients' patience ends.

    Args:
        requests: in order of arrival; drawn one ahead.
    """

    def __init__(self, requests: Iterable[TraceRequest]) -> None:
        self._coming = iter(requests)
        self._next = next(self._coming, None)
        self._patience: list[tuple[int, str]] = []  # heap of (when given up, request)
        self._ended: set[str] = set()  # of those in the heap

    def next_ns(self) -> int | None:
        """See `Load.next_ns`."""
        self._drop_ended()
        arrival = None if self._next is None else self._next.arrival_ns
        if not self._patience:
            return arrival
        abort = self._patience[0][0]
        return abort if arrival is None else min(arrival, abort)

    def take(self, now_ns: int) -> tuple[list[TraceRequest], list[str]]:
        """See `Load.take`."""
        arrivals: list[TraceRequest] = []
        while self._next is not None and self._next.arrival_ns <= now_ns:
            request = self._next
            arrivals.append(request)
            if request.abort_ns is not None:
                heapq.heappush(self._patience, (request.abort_ns, request.id))
            self._next = next(self._coming, None)
        aborts: list[str] = []
        self._drop_ended()
        while self._patience and self._patience[0][0] <= now_ns:
            aborts.append(heapq.heappop(self._patience)[1])
            self._drop_ended()
        return arrivals, aborts

    def ended(self, request_id: str, now_ns: int) -> None:  # noqa: ARG002
        """See `Load.ended`."""
        if self._patience:
            self._ended.add(request_id)

    def _drop_ended(self) -> None:
        while self._patience and self._patience[0][1] in self._ended:
            self._ended.discard(heapq.heappop(self._patience)[1])
