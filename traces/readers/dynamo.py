"""Dynamo's request traces: JSONL of events, from which what waited for what is inferred.

Source: https://github.com/ai-dynamo/dynamo, docs and the crate dynamo-data-gen (Apache-2.0). Events
of `"schema": "dynamo.request.trace.v1"`; a `request_end` holds `request` {request_id, output_tokens,
request_received_ms, total_time_ms, replay {trace_block_size, input_length, input_sequence_hashes}}
and perhaps `agent_context` {session_id, parent_session_id}. Other events are counted.

Waits are inferred as Dynamo's own replay does. A session's requests follow each other. A session
with a parent begins after the last request of its parent that had ended by then, and the first
request of the parent to start after the session's last end waits for it. The delay is the time
between; it holds the tools' time, so that tool events say nothing more. Without sessions requests
are sent at their times.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from traces.errors import RowError, shown
from traces.readers.agentic import Call, graph_requests
from traces.readers.fields import (
    Row,
    integer,
    integers,
    json_row,
    length,
    name_of,
    required,
    row_keys,
    string,
    time_ns,
)
from traces.readers.formats import Facts, ReadOptions, TraceContent
from traces.tokens import BlockTokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.lines import TraceLines

SCHEMA = "dynamo.request.trace.v1"
_MAX_HASH = 2**64 - 1


@dataclass(slots=True)
class _Seen:
    """A request as it was observed; times in ns."""

    call: Call
    start_ns: int
    end_ns: int
    session: str | None
    parent: str | None


class DynamoFormat:
    """Reads `request_end` events."""

    name = "dynamo"
    described = f'JSONL of events with "schema": "{SCHEMA}"'
    facts = Facts("ms", "in the file, a hash for the last, partial one too", "agents, inferred")

    def recognises(self, line: str) -> bool:
        """Whether a line is an event."""
        keys = row_keys(line)
        if "schema" in keys:
            return json_row(line)["schema"] == SCHEMA
        return {"event_type", "request_id"} <= keys

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit` in order of time."""
        names: dict[int, int] = {}  # sequence hash -> small number
        ids: set[str] = set()
        others: dict[str, int] = {}
        sizes: set[int] = set()

        def parse(line: str) -> _Seen | None:
            row = json_row(line)
            kind = string(required(row, "event_type", "the event's name"), "event_type")
            if kind != "request_end":
                others[kind] = others.get(kind, 0) + 1
                return None
            if row.get("schema") != SCHEMA:
                raise RowError(shown(row.get("schema")), repr(SCHEMA), field="schema")
            seen = _observed(row, source, names, options)
            if seen.call.id in ids:
                raise RowError(f"{seen.call.id!r} again", "unique ids", field="request_id")
            sizes.add(seen.call.prompt.block_size)
            if len(sizes) > 1:
                raise RowError(
                    f"{max(sizes)} and {min(sizes)} in one trace",
                    "one block size",
                    field="request.replay.trace_block_size",
                )
            ids.add(seen.call.id)
            return seen

        seen = [one for _, one in source.rows(lines, parse) if one is not None]
        seen.sort(key=lambda one: (one.start_ns, one.end_ns, one.call.id))
        seen = _with_known_parents(source, seen)
        _infer(seen)
        requests = graph_requests(source, [one.call for one in seen], options)
        meta: dict[str, object] = {"block_size": next(iter(sizes), None)}
        if others:
            meta["other_events"] = dict(sorted(others.items()))
        return TraceContent(requests, meta)


def _with_known_parents(source: TraceLines, seen: list[_Seen]) -> list[_Seen]:
    """Those whose session's parent is a session of the trace, or that name none; the others are bad."""
    known = {one.session for one in seen}
    kept = []
    for one in seen:
        if one.parent is None or one.parent in known:
            kept.append(one)
            continue
        where = "agent_context.parent_session_id"
        error = RowError(shown(one.parent), "a session of the trace", field=where)
        source.reject(one.call.place, error)
    return kept


def _infer(seen: list[_Seen]) -> None:
    """Fill in what the requests, in order of time, wait for."""
    sessions: dict[str, list[_Seen]] = {}
    for one in seen:
        if one.session is not None:
            sessions.setdefault(one.session, []).append(one)
    waits: dict[str, list[_Seen]] = {one.call.id: [] for one in seen}
    for turns in sessions.values():
        for before, after in pairwise(turns):
            waits[after.call.id].append(before)
    for turns in sessions.values():
        parents = sessions.get(turns[0].parent or "", [])
        spawn = max(
            (p for p in parents if p.end_ns <= turns[0].start_ns),
            key=lambda p: p.end_ns,
            default=None,
        )
        if spawn is not None:
            waits[turns[0].call.id].append(spawn)
        last = max(turns, key=lambda turn: (turn.end_ns, turn.start_ns))
        join = next((p for p in parents if p.start_ns >= last.end_ns), None)
        if join is not None:
            waits[join.call.id].append(last)
    for one in seen:
        before_it = waits[one.call.id]
        if before_it:
            one.call.ended = tuple(dict.fromkeys(other.call.id for other in before_it))
            ended = max(other.end_ns for other in before_it)
            one.call.delay_ns = max(0, one.start_ns - ended)


def _observed(row: Row, source: TraceLines, names: dict[int, int], options: ReadOptions) -> _Seen:
    request = _object(row, "request")
    replay = _object(request, "replay", "request.")
    context = row.get("agent_context")
    if context is not None and not isinstance(context, dict):
        raise RowError(shown(context), "a JSON object", field="agent_context")
    name = string(request.get("request_id"), "request.request_id")
    start = time_ns(request.get("request_received_ms"), "request.request_received_ms", "ms")
    took = time_ns(request.get("total_time_ms", 0), "request.total_time_ms", "ms")
    session, parent = (
        None if context is None or context.get(key) is None else name_of(context[key], key)
        for key in ("session_id", "parent_session_id")
    )
    call = Call(
        place=source.here,
        id=name,
        session=name if session is None else session,
        prompt=_prompt(replay, names, options),
        output_length=length(request.get("output_tokens"), "request.output_tokens"),
        stamp_ns=start,
    )
    return _Seen(call, start, start + took, session, parent)


def _prompt(replay: Row, names: dict[int, int], options: ReadOptions) -> BlockTokens:
    where = "request.replay."
    size = integer(replay.get("trace_block_size"), f"{where}trace_block_size", low=1)
    if options.block_size not in (None, size):
        raise RowError(
            str(size),
            f"{options.block_size}, the block size asked for",
            field=f"{where}trace_block_size",
        )
    tokens = length(replay.get("input_length"), f"{where}input_length")
    field = f"{where}input_sequence_hashes"
    given = replay.get("input_sequence_hashes")
    if isinstance(given, list) and all(type(h) is int and 0 <= h <= _MAX_HASH for h in given):
        given = [names.setdefault(h, len(names)) for h in given]
    hashes = integers(given, field)
    blocks = -(-tokens // size)
    if len(hashes) != blocks:
        raise RowError(
            f"{len(hashes)} hashes for {tokens} tokens",
            f"{blocks}: one per {size} tokens, the last, partial block included",
            field=field,
        )
    return BlockTokens(np.asarray(hashes), size, tokens, options.vocab_size)


def _object(row: Row, field: str, where: str = "") -> Row:
    value = row.get(field)
    if not isinstance(value, dict):
        raise RowError(shown(value), "a JSON object", field=f"{where}{field}")
    return value
