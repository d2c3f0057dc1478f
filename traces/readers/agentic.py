"""Dynamo's agentic Mooncake traces: requests with prefix hashes that name what they wait for.

Source: https://github.com/ai-dynamo/dynamo, the crate dynamo-data-gen (Apache-2.0). Two shapes. The
documented one: rows of `request_id`, `session_id`, `timestamp` (ms), lengths, `hash_ids`,
`wait_for` (requests that must have ended), and `delay` and `tool_wait_ms` (ms after the last of
them). Version 2 begins with a header, `{"schema": "dynamo.agentic_mooncake", "version": 2,
"block_size": n, "hash_id_scope": "local"}`; its rows have `play_id`, `not_before_ms` and
`dependencies`, each {request_id, trigger: "completion" | "dispatch", delay_ms, relation}.

A session here is a connected whole: a play, or the sessions that wait for each other. Of several
waits the longest delay counts, after the last of them; a request that several dispatches start
waits for the last of those in the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from traces.errors import RowError, shown
from traces.readers.conversations import from_start
from traces.readers.fields import (
    Row,
    integer,
    json_row,
    name_of,
    objects,
    required,
    row_keys,
    string,
    time_ns,
)
from traces.readers.formats import Facts, ReadOptions, TraceContent
from traces.readers.mooncake import BLOCK_SIZE, OUTPUT, hashed_prompt, tokens_of
from traces.tokens import BlockTokens, SyntheticTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.lines import Place, TraceLines

SCHEMA = "dynamo.agentic_mooncake"
VERSION = 2
_WAITS = frozenset({"wait_for", "dependencies", "play_id", "prefix_reset", "tool_wait_ms"})


@dataclass(slots=True)
class Call:
    """A request and what it waits for, before its session is known."""

    place: Place
    id: str
    session: str
    prompt: BlockTokens
    output_length: int
    stamp_ns: int | None
    not_before_ns: int = 0
    ended: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    delay_ns: int = 0


class AgenticMooncakeFormat:
    """Reads both shapes."""

    name = "agentic-mooncake"
    described = f'JSONL with request_id, hash_ids and wait_for a row, or {{"schema": "{SCHEMA}"}}'
    facts = Facts("ms", "512 or the header's, a hash for the last one too", "agents: any graph")

    def recognises(self, line: str) -> bool:
        """Whether a line is a header, or a row that says what it waits for."""
        keys = row_keys(line)
        if "schema" in keys:
            return json_row(line)["schema"] == SCHEMA
        return {"request_id", "hash_ids"} <= keys and not _WAITS.isdisjoint(keys)

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit` in the order they can be sent."""
        size = options.block_size or BLOCK_SIZE
        seen: set[str] = set()

        def parse(line: str) -> Call | None:
            nonlocal size
            row = json_row(line)
            if "schema" in row:
                size = _block_size(row, options.block_size)
                return None
            call = _call(row, source.here, replace(options, block_size=size))
            if call.id in seen:
                raise RowError(f"{call.id!r} a second time", "unique ids", field="request_id")
            seen.add(call.id)
            return call

        calls = [call for _, call in source.rows(lines, parse) if call is not None]
        requests = graph_requests(source, calls, options)
        return TraceContent(requests, {"block_size": size})


def graph_requests(
    source: TraceLines, calls: list[Call], options: ReadOptions
) -> list[TraceRequest]:
    """Requests of calls in whatever order, each after what it waits for.

    Raises:
        TraceError: a call waits for one that is not there, or for itself in the end, and bad rows
            are not left out.
    """
    made: dict[str, TraceRequest] = {}
    calls = _known(source, calls)
    session = _sessions(calls)
    row = {call.id: ordinal for ordinal, call in enumerate(calls)}
    left = calls
    while left:
        waiting: list[Call] = []
        for call in left:
            if made.keys() >= {*call.ended, *call.sent}:
                made[call.id] = _request(call, made, session[call.id], row[call.id], options)
            else:
                waiting.append(call)
        if len(waiting) == len(left):  # nothing can be sent: they wait for each other
            for call in waiting:
                source.reject(call.place, _circle(call))
            break
        left = waiting
    return from_start(sorted(made.values(), key=lambda r: r.arrival_ns))[: options.limit]


def _known(source: TraceLines, calls: list[Call]) -> list[Call]:
    """The calls that wait only for calls of the trace."""
    while True:
        ids = {call.id for call in calls}
        kept: list[Call] = []
        for call in calls:
            unknown = next((name for name in (*call.ended, *call.sent) if name not in ids), None)
            if unknown is None:
                kept.append(call)
                continue
            error = RowError(shown(unknown), "the request_id of another row", field="request_id")
            source.reject(call.place, error)
        if len(kept) == len(calls):
            return kept
        calls = kept


def _sessions(calls: list[Call]) -> dict[str, str]:
    """Call -> the name of its connected whole: the first of its sessions in the trace."""
    parent = {call.session: call.session for call in calls}
    first = {name: place for place, name in enumerate(parent)}
    of = {call.id: call.session for call in calls}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for call in calls:
        for other in (*call.ended, *call.sent):
            one, two = sorted((root(call.session), root(of[other])), key=first.__getitem__)
            parent[two] = one
    return {call.id: root(call.session) for call in calls}


def _request(
    call: Call, made: dict[str, TraceRequest], session: str, row: int, options: ReadOptions
) -> TraceRequest:
    after = [made[name].arrival_ns for name in (*call.ended, *call.sent)]
    earliest = max(after, default=0)
    stamp = earliest + call.delay_ns if call.stamp_ns is None else call.stamp_ns
    stamp = max(stamp, call.not_before_ns)
    return TraceRequest(
        id=call.id,
        arrival_ns=max(stamp, earliest),
        prompt=call.prompt,
        output=SyntheticTokens(row, call.output_length, options.vocab_size),
        session=session,
        depends_on=call.ended,
        delay_ns=call.delay_ns,
        spawned_by=call.sent[-1] if call.sent else None,
    )


def _circle(call: Call) -> RowError:
    waits = ", ".join(map(repr, (*call.ended, *call.sent)))
    return RowError(
        f"{call.id!r} waiting for {waits}, which in the end wait for it", "no circle of waits"
    )


def _block_size(row: Row, asked: int | None) -> int:
    if row["schema"] != SCHEMA:
        raise RowError(shown(row["schema"]), repr(SCHEMA), field="schema")
    if row.get("version") != VERSION:
        raise RowError(shown(row.get("version")), f"version {VERSION}", field="version")
    size = integer(required(row, "block_size", "tokens per hash"), "block_size", low=1)
    if asked not in (None, size):
        raise RowError(str(size), f"{asked}, the block size asked for", field="block_size")
    return size


def _call(row: Row, place: Place, options: ReadOptions) -> Call:
    name = string(required(row, "request_id", "a name"), "request_id")
    group = row.get("play_id", row.get("session_id"))
    call = Call(
        place=place,
        id=name,
        session=name if group is None else name_of(group, "session_id"),
        prompt=hashed_prompt(row, options),
        output_length=tokens_of(row, OUTPUT, "the answer's tokens"),
        stamp_ns=_time(row, "timestamp"),
        not_before_ns=_time(row, "not_before_ms") or 0,
    )
    if "dependencies" in row:
        _dependencies(call, row["dependencies"])
    else:
        waits = row.get("wait_for", [])
        if not isinstance(waits, list):
            raise RowError(shown(waits), "a list of request ids", field="wait_for")
        call.ended = tuple(dict.fromkeys(string(wait, "wait_for") for wait in waits))
        call.delay_ns = sum(
            time_ns(row[field], field, "ms")
            for field in ("delay", "tool_wait_ms")
            if row.get(field) is not None
        )
    waits_for_nothing = not call.ended and not call.sent
    if call.stamp_ns is None and "not_before_ms" not in row and waits_for_nothing:
        required(row, "timestamp", "milliseconds, as it waits for nothing")
    return call


def _time(row: Row, field: str) -> int | None:
    return None if row.get(field) is None else time_ns(row[field], field, "ms")


def _dependencies(call: Call, given: object) -> None:
    if given == []:
        return
    waits = objects(given, "dependencies")
    ended: list[str] = []
    sent: list[str] = []
    for wait in waits:
        trigger = wait.get("trigger")
        if trigger not in ("completion", "dispatch"):
            raise RowError(
                shown(trigger), "'completion' or 'dispatch'", field="dependencies.trigger"
            )
        name = string(wait.get("request_id"), "dependencies.request_id")
        (ended if trigger == "completion" else sent).append(name)
        delay = time_ns(wait.get("delay_ms", 0), "dependencies.delay_ms", "ms")
        call.delay_ns = max(call.delay_ns, delay)
    call.ended, call.sent = tuple(dict.fromkeys(ended)), tuple(dict.fromkeys(sent))
