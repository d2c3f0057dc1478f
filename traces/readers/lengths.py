"""CSV traces of times and lengths, or of lengths alone: Vidur's, NanoFlow's and BurstGPT.

Sources: https://github.com/microsoft/vidur, data/processed_traces (MIT): `num_prefill_tokens`,
`num_decode_tokens` and perhaps `arrived_at` (s). https://github.com/efeslab/Nanoflow,
datasets/traces (Apache-2.0): Azure's columns with `XXX` for every time.
https://github.com/HPMLL/BurstGPT (CC-BY-4.0), described in Wang et al., "BurstGPT" (2024):
`Timestamp` (s), `Model`, `Request tokens`, `Response tokens` (0: the call failed) and, in its third
part, `Session ID` and `Elapsed time` (s, from request to answer). Calls that failed are left out and
counted. What was in the prompts is not known: each is text of its own, in sessions too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.readers.conversations import Conversations, Turn, from_start
from traces.readers.csv_rows import csv_rows, has_columns
from traces.readers.fields import Clock, csv_count, csv_time_ns
from traces.readers.formats import Facts, ReadOptions, TraceContent, request_ids
from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.lines import TraceLines

_VIDUR = ("num_prefill_tokens", "num_decode_tokens")
_ARRIVED = "arrived_at"
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURST = ("Timestamp", "Request tokens", "Response tokens")
_SESSION, _ELAPSED = "Session ID", "Elapsed time"
_NO_TIMES = {"arrivals": "the trace has no times: all at 0"}


class VidurFormat:
    """Reads `num_prefill_tokens`, `num_decode_tokens`, and `arrived_at` where it is there."""

    name = "vidur"
    described = f"CSV with {', '.join(_VIDUR)} and perhaps {_ARRIVED} (s)"
    facts = Facts("s")

    def recognises(self, line: str) -> bool:
        """Whether a line is the header."""
        return has_columns(line, _VIDUR)

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit`; the rest of the file is then not read."""
        clock = Clock(_ARRIVED)
        timed = False

        def parse(row: dict[str, str]) -> tuple[int, int, int]:
            nonlocal timed
            timed = _ARRIVED in row
            stamp = csv_time_ns(row[_ARRIVED], _ARRIVED, "s") if timed else 0
            prompt, output = (csv_count(row[name], name) for name in _VIDUR)
            return clock.check(stamp, row.get(_ARRIVED)), prompt, output

        rows = list(csv_rows(source, lines, _VIDUR, parse, options.limit))
        return TraceContent(_requests(rows, options), {} if timed else dict(_NO_TIMES))


class NanoFlowFormat:
    """Reads Azure's columns without times."""

    name = "nanoflow"
    described = f"CSV with the header {','.join(_AZURE)} and XXX for each time"
    facts = Facts("")

    def recognises(self, line: str) -> bool:
        """Whether a line is a row without a time."""
        return line.startswith("XXX,")

    def claims(self, head: list[str]) -> bool:
        """Whether rows without times follow Azure's header."""
        return has_columns(head[0], _AZURE) and len(head) > 1 and self.recognises(head[1])

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit`; the rest of the file is then not read."""

        def parse(row: dict[str, str]) -> tuple[int, int, int]:
            prompt, output = (csv_count(row[name], name) for name in _AZURE[1:])
            return 0, prompt, output

        rows = list(csv_rows(source, lines, _AZURE, parse, options.limit))
        return TraceContent(_requests(rows, options), dict(_NO_TIMES))


class BurstGptFormat:
    """Reads BurstGPT, with sessions where they are there."""

    name = "burstgpt"
    described = f"CSV with {', '.join(_BURST)}"
    facts = Facts("s", sessions="turns (its third part), lengths only")

    def recognises(self, line: str) -> bool:
        """Whether a line is the header."""
        return has_columns(line, _BURST)

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All calls that were answered, or the first `options.limit`."""
        clock = Clock(_BURST[0])
        conversations = Conversations(_BURST[0])
        answered_ns: dict[str, int] = {}
        ordinal, failed = -1, 0

        def parse(row: dict[str, str]) -> TraceRequest | None:
            nonlocal ordinal, failed
            ordinal += 1
            stamp = csv_time_ns(row[_BURST[0]], _BURST[0], "s")
            output = csv_count(row[_BURST[2]], _BURST[2], low=0)
            prompt = csv_count(row[_BURST[1]], _BURST[1], low=0 if output == 0 else 1)
            took = csv_time_ns(row.get(_ELAPSED) or "0", _ELAPSED, "s")
            clock.check(stamp, row[_BURST[0]])
            if output == 0:
                failed += 1
                return None
            session = row.get(_SESSION) or None
            before = None if session is None else answered_ns.get(session)
            if session is not None:
                answered_ns[session] = stamp + took
            return conversations.add(
                Turn(
                    id=f"r{ordinal:07d}",
                    session=session,
                    prompt=SyntheticTokens(2 * ordinal, prompt, options.vocab_size),
                    output=SyntheticTokens(2 * ordinal + 1, output, options.vocab_size),
                    stamp_ns=stamp,
                    delay_ns=None if before is None else max(0, stamp - before),
                )
            )

        requests: list[TraceRequest] = []
        for _, request in csv_rows(source, lines, _BURST, parse, None):
            if request is not None:
                requests.append(request)
            if len(requests) == options.limit:
                break
        return TraceContent(from_start(requests), {"failed_calls_left_out": failed})


def _requests(
    rows: list[tuple[int, tuple[int, int, int]]], options: ReadOptions
) -> list[TraceRequest]:
    ids = request_ids([ordinal for ordinal, _ in rows])
    return [
        TraceRequest(
            id=name,
            arrival_ns=stamp,
            prompt=SyntheticTokens(2 * ordinal, prompt, options.vocab_size),
            output=SyntheticTokens(2 * ordinal + 1, output, options.vocab_size),
        )
        for name, (ordinal, (stamp, prompt, output)) in zip(ids, rows, strict=True)
    ]
