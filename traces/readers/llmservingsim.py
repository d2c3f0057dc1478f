"""LLMServingSim's workloads: JSONL with token ids, flat or an agent's calls on one line.

Source: https://github.com/casys-kaist/LLMServingSim, workloads/ (MIT). A flat row holds
`input_toks`, `output_toks`, `arrival_time_ns` and perhaps `input_tok_ids` and `output_tok_ids`; an
agent's holds `session_id`, `arrival_time_ns` and `sub_requests`, calls with the same lengths and ids
and `tool_duration_ns`, the wait between that call's answer and the next call. A call's prompt is all
that is sent; where its ids are not given it is text of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.errors import RowError
from traces.readers.conversations import Conversations, Turn, from_start
from traces.readers.fields import (
    Clock,
    Row,
    integer,
    integers,
    json_row,
    length,
    name_of,
    objects,
    required,
    row_keys,
)
from traces.readers.formats import Facts, ReadOptions, TraceContent
from traces.tokens import MAX_LENGTH, ExplicitTokens, SyntheticTokens, Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.lines import TraceLines
    from traces.workload import TraceRequest

_ARRIVAL = "arrival_time_ns"


class LlmServingSimFormat:
    """Reads flat rows and `sub_requests`."""

    name = "llmservingsim"
    described = (
        "JSONL with input_toks, output_toks and arrival_time_ns, or with sub_requests, a row"
    )
    facts = Facts("ns", sessions="agents' calls with tool waits, each all of it")

    def recognises(self, line: str) -> bool:
        """Whether a line is such a row."""
        keys = row_keys(line)
        return {"input_toks", "output_toks"} <= keys or "sub_requests" in keys

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All calls, or those of the first rows up to `options.limit`."""
        clock = Clock(_ARRIVAL)
        texts = 0

        def tokens(row: Row, name: str) -> Tokens:
            nonlocal texts
            known = length(required(row, f"{name}_toks", "a number of tokens"), f"{name}_toks")
            given = row.get(f"{name}_tok_ids")
            if given is None:
                texts += 1
                return SyntheticTokens(texts, known, options.vocab_size)
            ids = integers(given, f"{name}_tok_ids", high=MAX_LENGTH)
            if len(ids) != known:
                raise RowError(
                    f"{len(ids)} ids", f"{known}, as {name}_toks says", field=f"{name}_tok_ids"
                )
            return ExplicitTokens(ids)

        ordinal = -1
        sessions: set[str] = set()

        def parse(line: str) -> list[TraceRequest]:
            nonlocal ordinal
            ordinal += 1
            row = json_row(line)
            arrival = integer(required(row, _ARRIVAL, "nanoseconds"), _ARRIVAL)
            conversations = Conversations(_ARRIVAL)
            if "sub_requests" not in row:
                prompt, output = tokens(row, "input"), tokens(row, "output")
                turn = Turn(f"r{ordinal:06d}", None, prompt, output, arrival)
                clock.check(arrival, arrival)
                return [conversations.add(turn)]
            given = row.get("session_id")
            name = f"s{ordinal:06d}" if given is None else name_of(given, "session_id")
            if name in sessions:
                raise RowError(f"{name!r} a second time", "unique sessions", field="session_id")
            made: list[TraceRequest] = []
            wait = 0
            for place, call in enumerate(objects(row["sub_requests"], "sub_requests")):
                try:
                    made.append(
                        conversations.add(
                            Turn(
                                id=f"{name}/{place:04d}",
                                session=name,
                                prompt=tokens(call, "input"),
                                output=tokens(call, "output"),
                                stamp_ns=arrival if place == 0 else None,
                                delay_ns=wait,
                            )
                        )
                    )
                    wait = integer(call.get("tool_duration_ns", 0), "tool_duration_ns")
                except RowError as error:
                    field = f"sub_requests[{place}].{error.field}"
                    raise RowError(error.found, error.expected, field=field) from None
            clock.check(arrival, arrival)
            sessions.add(name)
            return made

        requests: list[TraceRequest] = []
        for _, made in source.rows(lines, parse):
            requests += made
            if options.limit is not None and len(requests) >= options.limit:
                break
        return TraceContent(from_start(requests[: options.limit]), {})
