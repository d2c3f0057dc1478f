"""Turns as they are read become requests that wait for each other: one session, one chain.

For the formats whose sessions are conversations. A follow-up is sent after the answer before it,
when its reader has thought: for as long as its row says or, where it gives only stamps, for the
time between them, which is too long by the answer's own duration (Dynamo's replay does the same).
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from traces.errors import RowError, shown
from traces.tokens import JoinedTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from traces.tokens import Tokens


class Turn(NamedTuple):
    """A row of a session.

    Attributes:
        id: of the request.
        session: the conversation it belongs to; None if it is none.
        prompt: what the row says is sent.
        output: the answer.
        stamp_ns: when the trace says it is sent.
        delay_ns: how long after the answer before it (a first turn: after the start of the trace);
            None if the row does not say.
    """

    id: str
    session: str | None
    prompt: Tokens
    output: Tokens
    stamp_ns: int | None = None
    delay_ns: int | None = None


class Conversations:
    """Makes a request of each turn, in the order in which they are added.

    Args:
        field: what the stamps are called, for errors.
        deltas: whether a row holds only what is new, so that what is sent is all that was said
            before, prompts and answers, and then the row.
    """

    def __init__(self, field: str, *, deltas: bool = False) -> None:
        self._field = field
        self._deltas = deltas
        self._last: dict[str, TraceRequest] = {}

    def add(self, turn: Turn) -> TraceRequest:
        """The turn's request, which waits for the one before it in its session.

        Raises:
            RowError: the turn is stamped earlier than the one before it.
        """
        before = None if turn.session is None else self._last.get(turn.session)
        if before is None or before.turn is None:
            request = self._first(turn)
        else:
            request = self._next(turn, before, before.turn + 1)
        if turn.session is not None:
            self._last[turn.session] = request
        return request

    def _first(self, turn: Turn) -> TraceRequest:
        return TraceRequest(
            id=turn.id,
            arrival_ns=turn.delay_ns or 0 if turn.stamp_ns is None else turn.stamp_ns,
            prompt=turn.prompt,
            output=turn.output,
            session=turn.session,
            turn=None if turn.session is None else 0,
        )

    def _next(self, turn: Turn, before: TraceRequest, number: int) -> TraceRequest:
        stamp, delay = turn.stamp_ns, turn.delay_ns
        if stamp is not None and stamp < before.arrival_ns:
            raise RowError(
                f"{shown(turn.session)} back in time by {before.arrival_ns - stamp} ns",
                "each turn of a session at or after the one before it",
                field=self._field,
            )
        if delay is None:
            delay = 0 if stamp is None else stamp - before.arrival_ns
        prompt = turn.prompt
        if self._deltas:
            prompt = JoinedTokens([before.prompt, before.output, turn.prompt])
        return TraceRequest(
            id=turn.id,
            arrival_ns=before.arrival_ns + delay if stamp is None else stamp,
            prompt=prompt,
            output=turn.output,
            session=turn.session,
            depends_on=(before.id,),
            delay_ns=delay,
            turn=number,
        )


def from_start(requests: Iterable[TraceRequest]) -> list[TraceRequest]:
    """Requests in the order they arrive, ties as they stand, counted from the first arrival."""
    ordered = sorted(requests, key=attrgetter("arrival_ns"))
    start = ordered[0].arrival_ns if ordered else 0
    if start == 0:
        return ordered
    return [replace(r, arrival_ns=r.arrival_ns - start) for r in ordered]
