"""Alibaba's Qwen-Bailian traces: JSONL with prefix hashes of 16 tokens, chats linked by parents.

Source: https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon (Apache-2.0), described in Wang
et al., "KVCache Cache in the Wild" (USENIX ATC 2025). A row holds `chat_id`, `parent_chat_id` (-1
for the first request of a chat), `timestamp` (s), `input_length`, `output_length`, `type`, `turn`
(from 1) and `hash_ids`, a chained hash for each 16 tokens of the whole prompt, history included,
the last, partial block too. When an answer ended is not recorded, so a follow-up's delay is the
time between the stamps, which is too long by that answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from traces.errors import RowError, shown
from traces.readers.conversations import from_start
from traces.readers.fields import Clock, integer, json_row, required, row_keys, time_ns
from traces.readers.formats import Facts, ReadOptions, TraceContent
from traces.readers.mooncake import OUTPUT, hashed_prompt, tokens_of
from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.lines import TraceLines

BLOCK_SIZE = 16
_ROOT = -1


class BailianFormat:
    """Reads `chat_id`, `parent_chat_id`, `timestamp`, lengths and `hash_ids`."""

    name = "bailian"
    described = "JSONL with chat_id, parent_chat_id, timestamp (s), lengths and hash_ids a row"
    facts = Facts("s", "16, a hash for the last, partial one too", "turns by parent, whole prompts")

    def recognises(self, line: str) -> bool:
        """Whether a line is a JSON object that names a chat and its parent."""
        return {"chat_id", "parent_chat_id"} <= row_keys(line)

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit`; the rest of the file is then not read."""
        clock = Clock("timestamp")
        made: dict[int, TraceRequest] = {}
        types: dict[str, int] = {}
        sized = replace(options, block_size=options.block_size or BLOCK_SIZE)

        def parse(line: str) -> TraceRequest:
            row = json_row(line)
            chat = integer(required(row, "chat_id", "the request's number"), "chat_id")
            if chat in made:
                raise RowError(f"{chat} a second time", "unique ids", field="chat_id")
            stamp = required(row, "timestamp", "seconds from the start of the trace")
            request = _request(chat, time_ns(stamp, "timestamp", "s"), row, made, sized)
            clock.check(request.arrival_ns, stamp)
            made[chat] = request
            kind = str(row.get("type", "text"))
            types[kind] = types.get(kind, 0) + 1
            return request

        requests = [request for _, request in source.rows(lines, parse, options.limit)]
        return TraceContent(from_start(requests), {"types": dict(sorted(types.items()))})


def _request(
    chat: int,
    stamp_ns: int,
    row: dict[str, object],
    made: dict[int, TraceRequest],
    options: ReadOptions,
) -> TraceRequest:
    parent_id = integer(
        required(row, "parent_chat_id", f"a chat_id, or {_ROOT}"), "parent_chat_id", low=_ROOT
    )
    parent = None if parent_id == _ROOT else made.get(parent_id)
    if parent is None and parent_id != _ROOT:
        raise RowError(
            f"{parent_id}, a chat that is not there",
            f"the chat_id of a row before, or {_ROOT} for the first request of a chat",
            field="parent_chat_id",
        )
    if parent is not None and stamp_ns < parent.arrival_ns:
        raise RowError(
            f"{shown(row['timestamp'])}, earlier than its parent {parent_id}",
            "each turn of a chat at or after the one before it",
            field="timestamp",
        )
    turn = integer(row.get("turn", 1), "turn", low=1)
    output = tokens_of(row, OUTPUT, "the answer's tokens")
    return TraceRequest(
        id=f"c{chat}",
        arrival_ns=stamp_ns,
        prompt=hashed_prompt(row, options),
        output=SyntheticTokens(chat, output, options.vocab_size),
        session=f"c{chat}" if parent is None else parent.session,
        depends_on=() if parent is None else (parent.id,),
        delay_ns=0 if parent is None else stamp_ns - parent.arrival_ns,
        turn=turn - 1,
    )
