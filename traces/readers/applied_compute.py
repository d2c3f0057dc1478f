"""Applied Compute's agent workloads: JSONL of lengths and tool latencies, a session a line.

Format of Dynamo's `--trace-format applied_compute_agentic` (https://github.com/ai-dynamo/dynamo):
`num_turns`, `input_prompt_length`, lists of `assistant_response_length`, `tool_call_output_length`
and `tool_call_latency` (s), one for each turn, and `final_assistant_response_length`. A session makes
`num_turns` + 1 calls; each sends all that was said before and the tool's output. The trace has no
times: every session starts at 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.errors import RowError, shown
from traces.readers.conversations import Conversations, Turn, from_start
from traces.readers.fields import Row, count, integer, json_row, length, row_keys, time_ns
from traces.readers.formats import Facts, ReadOptions, TraceContent
from traces.sessions import SESSIONS_AT_ONCE
from traces.tokens import SyntheticTokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.lines import TraceLines
    from traces.workload import TraceRequest

_LISTS = ("assistant_response_length", "tool_call_output_length", "tool_call_latency")


class AppliedComputeFormat:
    """Reads sessions of lengths."""

    name = "applied-compute"
    described = f"JSONL with input_prompt_length, {', '.join(_LISTS)} a row"
    facts = Facts("s", sessions="agents' calls with tool waits, each only what is new")

    def recognises(self, line: str) -> bool:
        """Whether a line is such a session."""
        return {"input_prompt_length", *_LISTS} <= row_keys(line)

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All calls, or those of the first sessions up to `options.limit`."""
        ordinal, texts = -1, 0

        def text(tokens: int) -> SyntheticTokens:
            nonlocal texts
            texts += 1
            return SyntheticTokens(texts, tokens, options.vocab_size)

        def parse(line: str) -> list[TraceRequest]:
            nonlocal ordinal
            ordinal += 1
            row = json_row(line)
            turns = integer(row.get("num_turns"), "num_turns")
            answers, tools, latencies = (_list(row, name, turns) for name in _LISTS)
            final = row.get("final_assistant_response_length")
            session = f"s{ordinal:06d}"
            conversations = Conversations("", deltas=True)
            new = length(row.get("input_prompt_length"), "input_prompt_length")
            delay = 0
            made: list[TraceRequest] = []
            for place in range(turns + 1):
                last = place == turns
                field = "final_assistant_response_length" if last else f"{_LISTS[0]}[{place}]"
                output = text(length(final if last else answers[place], field))
                turn = Turn(f"{session}/{place:04d}", session, text(new), output, None, delay)
                made.append(conversations.add(turn))
                if not last:
                    new = count(tools[place], f"{_LISTS[1]}[{place}]")
                    delay = time_ns(latencies[place], f"{_LISTS[2]}[{place}]", "s")
            return made

        requests: list[TraceRequest] = []
        for _, made in source.rows(lines, parse):
            requests += made
            if options.limit is not None and len(requests) >= options.limit:
                break
        meta: dict[str, object] = {
            "arrivals": "every session starts at 0",
            "concurrency": SESSIONS_AT_ONCE,
        }
        return TraceContent(from_start(requests[: options.limit]), meta)


def _list(row: Row, name: str, turns: int) -> list[object]:
    value = row.get(name)
    if not isinstance(value, list) or len(value) != turns:
        found = f"{len(value)} values" if isinstance(value, list) else shown(value)
        raise RowError(found, f"a list of {turns}, as num_turns says", field=name)
    return value
