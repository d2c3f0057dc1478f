"""The native trace format: JSONL that loses nothing of a workload.

The first line is a header, `{"schema": "schedtwin.trace", "version": 1, "name": "", "meta": {}}`;
each line after it is a request with the fields of `TraceRequest`, those at their default left out.
A token sequence is written as what it is held as: a list of ids,
`{"hash_ids": [...], "block_size": 512, "length": n}`, `{"key": k, "length": n}`, or
`{"parts": [...]}`, such sequences one after another.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, cast

from traces.errors import RowError, shown
from traces.readers.fields import (
    Clock,
    Row,
    integer,
    integers,
    json_row,
    length,
    required,
    row_keys,
    string,
)
from traces.readers.formats import Facts, ReadOptions, TraceContent
from traces.tokens import (
    MAX_LENGTH,
    VOCAB_SIZE,
    BlockTokens,
    ExplicitTokens,
    JoinedTokens,
    SyntheticTokens,
    Tokens,
)
from traces.workload import TraceRequest
from traces.writers.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.generate.stream import RequestStream
    from traces.readers.lines import TraceLines
    from traces.workload import Workload

SCHEMA = "schedtwin.trace"
VERSION = 1
_HEADER_FIELDS = frozenset({"schema", "version", "name", "meta"})
_REQUEST_FIELDS = frozenset(field.name for field in fields(TraceRequest))
_TEXT_FIELDS = ("tenant", "session", "extra_key", "routing_key", "lora_id")
_DESCRIPTION = 'a list of ids, {"hash_ids", "block_size", "length"}, {"key", "length"} or {"parts"}'


def write_native(workload: Workload | RequestStream, path: str | Path) -> None:
    """Writes a workload so that `read_trace` gives back its name, meta and requests.

    Requests are written one by one, so a stream of any length needs no memory.

    The file appears whole or not at all; it is compressed if the path ends in `.gz` or `.zst`. The
    same workload gives the same bytes. Reading back, the workload's meta stands under `origin`,
    beside what is known of the file itself.

    Raises:
        OSError: the file cannot be written.
        ValueError: meta or sampling parameters that JSON cannot hold.
    """
    header = {
        "schema": SCHEMA,
        "version": VERSION,
        "name": workload.name,
        "meta": dict(workload.meta),
    }
    with replacing(Path(path)) as file:
        file.write(_line(header, "meta"))
        for request in workload:
            file.write(_line(_request_row(request), f"request {request.id!r}"))


class NativeFormat:
    """Reads what `write_native` writes."""

    name = "native"
    described = f'JSONL whose first line is {{"schema": "{SCHEMA}", "version": {VERSION}, ...}}'
    facts = Facts(unit="ns", blocks="as written", sessions="all a session can be")

    def recognises(self, line: str) -> bool:
        """Whether a line is a header, or an object with the fields of a request."""
        keys = row_keys(line)
        if {"schema", "version"} <= keys:
            return json_row(line)["schema"] == SCHEMA
        return {"id", "arrival_ns", "prompt"} <= keys

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit`; the rest of the file is then not read."""
        number, line = next(lines)
        try:
            name, meta = _parse_header(line)
        except RowError as error:
            raise source.at(number, line, error) from None
        clock = Clock("arrival_ns")
        seen: dict[str, str | None] = {}

        def parse(line: str) -> TraceRequest:
            request = _parse_request(json_row(line))
            if request.id in seen:
                raise RowError(f"{request.id!r} a second time", "unique ids", field="id")
            clock.check(request.arrival_ns, request.arrival_ns)
            _check_waits(request, seen)
            seen[request.id] = request.session
            return request

        rows = source.rows(lines, parse, options.limit)
        kept: Row = {"origin": meta}
        concurrency = meta.get("concurrency")
        if isinstance(concurrency, int) and concurrency >= 1:
            kept["concurrency"] = concurrency  # how it is sent is part of the workload
        return TraceContent([request for _, request in rows], kept, name)


def _line(value: object, what: str) -> bytes:
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} cannot be written as JSON: {error}") from None
    return text.encode("ascii") + b"\n"


def _request_row(request: TraceRequest) -> Row:
    row: Row = {
        "id": request.id,
        "arrival_ns": request.arrival_ns,
        "prompt": _described(request.prompt),
        "output": _described(request.output),
    }
    if request.max_new_tokens != len(request.output):
        row["max_new_tokens"] = request.max_new_tokens
    if not request.ignore_eos:
        row["ignore_eos"] = False
    for name in ("priority", *_TEXT_FIELDS, "abort_ns", "spawned_by", "turn"):
        value = getattr(request, name)
        if value is not None:
            row[name] = value
    if request.depends_on:
        row["depends_on"] = list(request.depends_on)
    if request.delay_ns:
        row["delay_ns"] = request.delay_ns
    if request.sampling is not None:
        row["sampling"] = dict(request.sampling)
    return row


def _described(tokens: Tokens) -> Row | list[int]:
    row: Row
    match tokens:
        case BlockTokens():
            row = {
                "hash_ids": tokens.hash_ids.tolist(),
                "block_size": tokens.block_size,
                "length": tokens.length,
            }
        case SyntheticTokens():
            row = {"key": tokens.key, "length": tokens.length}
        case JoinedTokens():
            return {"parts": [_described(part) for part in tokens.parts]}
        case _:  # of any other kind only the ids are known
            return cast("list[int]", tokens.array().tolist())
    if tokens.vocab_size != VOCAB_SIZE:
        row["vocab_size"] = tokens.vocab_size
    return row


def _parse_header(line: str) -> tuple[str, Row]:
    row = json_row(line)
    if row.get("schema") != SCHEMA:
        raise RowError(shown(row.get("schema")), f"{SCHEMA!r} in the header line", field="schema")
    if row.get("version") != VERSION:
        raise RowError(shown(row.get("version")), f"version {VERSION}", field="version")
    _refuse_unknown(row, _HEADER_FIELDS)
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise RowError(shown(meta), "a JSON object", field="meta")
    name = required(row, "name", "the workload's name")
    if not isinstance(name, str):
        raise RowError(shown(name), "a string", field="name")
    return name, meta


def _parse_request(row: Row) -> TraceRequest:
    _refuse_unknown(row, _REQUEST_FIELDS)
    output = _parse_tokens(required(row, "output", _DESCRIPTION), "output")
    ignore_eos = row.get("ignore_eos", True)
    if type(ignore_eos) is not bool:
        raise RowError(shown(ignore_eos), "true or false", field="ignore_eos")
    sampling = row.get("sampling")
    if sampling is not None and not isinstance(sampling, dict):
        raise RowError(shown(sampling), "a JSON object", field="sampling")
    arrival = integer(required(row, "arrival_ns", "nanoseconds"), "arrival_ns")
    abort, priority, turn = row.get("abort_ns"), row.get("priority"), row.get("turn")
    spawned = row.get("spawned_by")
    texts: dict[str, str | None] = {
        # an empty name is kept: it is what the workload said
        name: None if row.get(name) is None else _text(row[name], name)
        for name in _TEXT_FIELDS
    }
    return TraceRequest(
        id=string(required(row, "id", "a name"), "id"),
        arrival_ns=arrival,
        prompt=_parse_tokens(required(row, "prompt", _DESCRIPTION), "prompt"),
        output=output,
        max_new_tokens=length(row.get("max_new_tokens", len(output)), "max_new_tokens"),
        ignore_eos=ignore_eos,
        priority=None if priority is None else integer(priority, "priority", low=-(2**63)),
        sampling=sampling,
        abort_ns=None if abort is None else integer(abort, "abort_ns", low=arrival),
        depends_on=_parse_waits(row.get("depends_on", [])),
        delay_ns=integer(row.get("delay_ns", 0), "delay_ns"),
        spawned_by=None if spawned is None else string(spawned, "spawned_by"),
        turn=None if turn is None else integer(turn, "turn"),
        **texts,
    )


def _parse_tokens(value: object, field: str) -> Tokens:
    if isinstance(value, list):
        if not value:
            raise RowError("no token", "at least one token", field=field)
        return ExplicitTokens(integers(value, field, high=MAX_LENGTH))
    if not isinstance(value, dict):
        raise RowError(shown(value), _DESCRIPTION, field=field)
    if value.keys() == {"parts"}:
        parts = value["parts"]
        if not isinstance(parts, list) or not parts:
            raise RowError(shown(parts), "a list of token sequences", field=f"{field}.parts")
        if any(isinstance(part, dict) and "parts" in part for part in parts):
            raise RowError(
                "parts within parts", "sequences that are no parts", field=f"{field}.parts"
            )
        return JoinedTokens([_parse_tokens(part, f"{field}.parts") for part in parts])
    tokens = length(value.get("length"), f"{field}.length")
    vocab = length(value.get("vocab_size", VOCAB_SIZE), f"{field}.vocab_size")
    known = value.keys() - {"length", "vocab_size"}
    try:
        if known == {"hash_ids", "block_size"}:
            hashes = integers(value["hash_ids"], f"{field}.hash_ids")
            block = length(value["block_size"], f"{field}.block_size")
            return BlockTokens(hashes, block, tokens, vocab)
        if known == {"key"}:
            return SyntheticTokens(integer(value["key"], f"{field}.key"), tokens, vocab)
    except ValueError as error:
        raise RowError(
            f"a description that does not fit ({error})", _DESCRIPTION, field=field
        ) from None
    raise RowError(f"the keys {', '.join(map(repr, value))}", _DESCRIPTION, field=field)


def _parse_waits(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise RowError(shown(value), "a list of request ids", field="depends_on")
    return tuple(string(name, "depends_on") for name in value)


def _check_waits(request: TraceRequest, seen: dict[str, str | None]) -> None:
    for field, names in (
        ("depends_on", request.depends_on),
        ("spawned_by", () if request.spawned_by is None else (request.spawned_by,)),
    ):
        for name in names:
            if name not in seen:
                raise RowError(shown(name), "the id of a request on a line before", field=field)
            if request.session is None or seen[name] != request.session:
                raise RowError(
                    f"{shown(name)} of session {shown(seen[name])}",
                    f"a request of session {shown(request.session)}",
                    field=field,
                )
        if len(set(names)) < len(names):
            raise RowError("a request twice", "each request once", field=field)


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise RowError(shown(value), "a string", field=field)
    return value


def _refuse_unknown(row: Row, known: frozenset[str]) -> None:
    for field in row:
        if field not in known:
            raise RowError(
                "a field of that name", f"one of {', '.join(sorted(known))}", field=field
            )
