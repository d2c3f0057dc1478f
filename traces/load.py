"""Load: what arrives when. Written once, asked by either world.

A load is a workload's own logic. The tape of `OpenLoop` comes at its own times, whatever the server
does. In `ClosedLoop` a request waits for the answers it depends on: a chat turn for the answer before
it and for its reader, an agent's call for the tool, a join for the subagents; and a limited number of
sessions is under way at once. A load learns from the world only when requests end.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from traces.workload import TraceRequest


class Arrival(NamedTuple):
    """A request as it is sent, and when, in nanoseconds of the world's clock."""

    request: TraceRequest
    sent_ns: int


class Load(Protocol):
    """What a world asks about what comes in. Times are nanoseconds of the world's clock.

    Attributes:
        waits_for_ends: whether something may come in because a request ended.
    """

    waits_for_ends: bool

    def next_ns(self) -> int | None:
        """When something comes in next, as far as is known; None if nothing will, or not yet."""
        ...

    def take(self, now_ns: int) -> tuple[list[Arrival], list[str]]:
        """What has come in until now and was not taken yet: requests, and ids of those given up."""
        ...

    def ended(self, request_id: str, now_ns: int) -> None:
        """A request that was taken ended, in whatever way: finished, refused or aborted."""
        ...


class Patience:
    """When clients give up: a heap of those who will, without those whose request has ended.

    Attributes:
        waiting: ids of the requests under way whose clients will give up some time.
    """

    def __init__(self) -> None:
        self.waiting: set[str] = set()
        self._heap: list[tuple[int, str]] = []

    def watch(self, request: TraceRequest, sent_ns: int) -> None:
        """A request was sent; its client's patience counts from then."""
        if request.abort_ns is not None:
            given_up = sent_ns + request.abort_ns - request.arrival_ns
            heapq.heappush(self._heap, (given_up, request.id))
            self.waiting.add(request.id)

    def ended(self, request_id: str) -> None:
        """A request ended: its client waits no longer."""
        self.waiting.discard(request_id)

    def next_ns(self) -> int | None:
        """When the next client gives up, in nanoseconds; None if none will."""
        while self._heap and self._heap[0][1] not in self.waiting:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now_ns: int) -> list[str]:
        """Those who have given up until now, in order of time, then of id."""
        given_up: list[str] = []
        while (at := self.next_ns()) is not None and at <= now_ns:
            request_id = heapq.heappop(self._heap)[1]
            self.waiting.discard(request_id)
            given_up.append(request_id)
        return given_up


def _sooner(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


class OpenLoop:
    """Requests at the times their trace gives, and aborts when their clients' patience ends.

    Args:
        requests: in order of arrival; drawn one ahead, so that they can be a stream.
    """

    waits_for_ends = False

    def __init__(self, requests: Iterable[TraceRequest]) -> None:
        self._coming = iter(requests)
        self._next = next(self._coming, None)
        self._next_ns = None if self._next is None else self._next.arrival_ns
        self._patience = Patience()

    def next_ns(self) -> int | None:
        """See `Load.next_ns`."""
        if not self._patience.waiting:
            return self._next_ns
        return _sooner(self._next_ns, self._patience.next_ns())

    def take(self, now_ns: int) -> tuple[list[Arrival], list[str]]:
        """See `Load.take`."""
        arrivals: list[Arrival] = []
        request = self._next
        while request is not None and request.arrival_ns <= now_ns:
            arrivals.append(Arrival(request, request.arrival_ns))
            if request.abort_ns is not None:
                self._patience.watch(request, request.arrival_ns)
            request = next(self._coming, None)
        if arrivals:
            self._next = request
            self._next_ns = None if request is None else request.arrival_ns
        return arrivals, self._patience.take(now_ns) if self._patience.waiting else []

    def ended(self, request_id: str, now_ns: int) -> None:  # noqa: ARG002
        """See `Load.ended`."""
        self._patience.ended(request_id)


class _Session:
    """The requests of one session that have not ended."""

    __slots__ = ("left", "requests")

    def __init__(self) -> None:
        self.requests: list[TraceRequest] = []
        self.left = 0


class ClosedLoop:
    """Requests sent when those they depend on have ended, and their delay has passed.

    A request with `depends_on` is sent `delay_ns` after the last of those ended; one with
    `spawned_by` that long after that one was sent. Other requests of a session are sent as far after
    its start as in the trace. Requests without a session are sessions of one request.

    Args:
        requests: of whole sessions, which start in the order of their first requests.
        concurrency: so many sessions are under way at once: the first at time 0, each other one when
            one has ended. None starts each session at its first request's time.
    """

    waits_for_ends = True

    def __init__(self, requests: Iterable[TraceRequest], concurrency: int | None = None) -> None:
        if concurrency is not None and concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; it must be at least 1")
        self._due: list[tuple[int, int, TraceRequest]] = []  # heap: (when sent, order, request)
        self._order = count()
        self._patience = Patience()
        self._after_end: dict[str, list[TraceRequest]] = {}
        self._after_send: dict[str, list[TraceRequest]] = {}
        self._missing: dict[str, int] = {}  # request -> what it waits for, if anything
        self._session_of: dict[str, _Session] = {}
        sessions: dict[str, _Session] = {}
        for request in requests:
            key = f"r:{request.id}" if request.session is None else f"s:{request.session}"
            self._enter(request, sessions.setdefault(key, _Session()))
        self._waiting = deque(sessions.values())
        for _ in range(len(self._waiting) if concurrency is None else concurrency):
            self._start_next(None if concurrency is None else 0)
        self._refill = concurrency is not None

    def _enter(self, request: TraceRequest, session: _Session) -> None:
        session.requests.append(request)
        session.left += 1
        self._session_of[request.id] = session
        missing = len(request.depends_on) + (request.spawned_by is not None)
        if missing:
            self._missing[request.id] = missing
        for other in request.depends_on:
            self._after_end.setdefault(other, []).append(request)
        if request.spawned_by is not None:
            self._after_send.setdefault(request.spawned_by, []).append(request)

    def _start_next(self, at_ns: int | None) -> None:
        """Start the next session, at a time or, if None, at its own."""
        if not self._waiting:
            return
        session = self._waiting.popleft()
        begun = session.requests[0].arrival_ns
        start = begun if at_ns is None else at_ns
        for request in session.requests:
            if request.id not in self._missing:
                self._send(request, start + request.arrival_ns - begun)
        session.requests = []

    def _send(self, request: TraceRequest, at_ns: int) -> None:
        heapq.heappush(self._due, (at_ns, next(self._order), request))

    def _release(self, waiting: list[TraceRequest], now_ns: int) -> None:
        """One of the things that these requests wait for has happened."""
        for request in waiting:
            self._missing[request.id] -= 1
            if self._missing[request.id] == 0:
                del self._missing[request.id]
                self._send(request, now_ns + request.delay_ns)

    def next_ns(self) -> int | None:
        """See `Load.next_ns`."""
        return _sooner(self._due[0][0] if self._due else None, self._patience.next_ns())

    def take(self, now_ns: int) -> tuple[list[Arrival], list[str]]:
        """See `Load.take`."""
        arrivals: list[Arrival] = []
        while self._due and self._due[0][0] <= now_ns:
            sent_ns, _, request = heapq.heappop(self._due)
            arrivals.append(Arrival(request, sent_ns))
            self._patience.watch(request, sent_ns)
            self._release(self._after_send.pop(request.id, []), sent_ns)
        return arrivals, self._patience.take(now_ns)

    def ended(self, request_id: str, now_ns: int) -> None:
        """See `Load.ended`."""
        self._patience.ended(request_id)
        self._release(self._after_end.pop(request_id, []), now_ns)
        session = self._session_of.pop(request_id)
        session.left -= 1
        if session.left == 0 and self._refill:
            self._start_next(now_ns)
