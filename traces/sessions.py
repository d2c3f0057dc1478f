"""Sessions as graphs: which request waits for which, and that each of them can come.

A request names those of its session that must have ended before it is sent (`depends_on`), or the
one whose sending started it (`spawned_by`). A workload lists them in an order in which each stands
after what it waits for, so no cycle can be written down. When they are sent is for a load to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from traces.workload import TraceRequest

SESSIONS_AT_ONCE = 50
"""How many agent sessions are under way at once by default, where a trace does not say when they start."""


def check_sessions(requests: Sequence[TraceRequest]) -> None:
    """Holds the requests of a workload to what a session is.

    Raises:
        ValueError: a request waits for one that is not there, stands after it (itself, or in a
            cycle, perhaps) or belongs to another session, or names one twice.
    """
    waits = [request for request in requests if waits_for(request)]
    if not waits:
        return
    place = {request.id: row for row, request in enumerate(requests)}
    for request in waits:
        for name in waits_for(request):
            row = place.get(name)
            if row is None:
                raise ValueError(
                    f"request {request.id!r} waits for {name!r}; expected a request of the workload"
                )
            if row >= place[request.id]:
                raise ValueError(
                    f"request {request.id!r} waits for {name!r}, which does not stand before it; "
                    "expected arrivals in an order in which they can be sent, without cycles"
                )
            if request.session is None or requests[row].session != request.session:
                raise ValueError(
                    f"request {request.id!r} of session {request.session!r} waits for {name!r} of "
                    f"session {requests[row].session!r}; expected requests of one session"
                )
        if len(set(request.depends_on)) < len(request.depends_on):
            raise ValueError(f"request {request.id!r} waits for a request twice; expected once")


def waits_for(request: TraceRequest) -> tuple[str, ...]:
    """Ids of all that a request waits for, to end or to be sent."""
    if request.spawned_by is None:
        return request.depends_on
    return (*request.depends_on, request.spawned_by)


def by_session(requests: Iterable[TraceRequest]) -> dict[str, list[TraceRequest]]:
    """The requests of each session, in the order given; one without a session is its own.

    Keys are the sessions' names, or `request ID` where there is none.
    """
    sessions: dict[str, list[TraceRequest]] = {}
    for request in requests:
        name = request.session if request.session is not None else f"request {request.id}"
        sessions.setdefault(name, []).append(request)
    return sessions
