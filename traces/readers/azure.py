"""Azure's LLM inference traces (2023 and 2024): CSV with a time and two lengths a request.

Source: https://github.com/Azure/AzurePublicDataset (CC-BY), described in Patel et al., "Splitwise"
(ISCA 2024). Times are written with seven fractional digits and no offset (2023) or with six and an
offset (2024); both are read exactly, and counted from the first row. The trace does not say what
was in the prompts, so each is text of its own that shares no prefix with any other.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING

from traces.errors import RowError, shown
from traces.readers.fields import Clock, csv_count
from traces.readers.formats import Facts, ReadOptions, TraceContent, request_ids
from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.lines import TraceLines

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_HEADER = ",".join(_COLUMNS)
_MINUTE = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):", re.ASCII)
_MINUTE_LENGTH = len("2023-11-16 18:17:")
_SECOND = re.compile(r"(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))?", re.ASCII)
_ROW_START = re.compile(r"\d{4}-\d\d-\d\d[ T]", re.ASCII)
_EPOCH = date(1970, 1, 1).toordinal()


class AzureFormat:
    """Reads `TIMESTAMP,ContextTokens,GeneratedTokens`."""

    name = "azure"
    described = f"CSV with the header {_HEADER}"
    facts = Facts(unit="date")

    def recognises(self, line: str) -> bool:
        """Whether a line is the header or starts with a time."""
        return line == _HEADER or _ROW_START.match(line) is not None

    def read(
        self, source: TraceLines, lines: Iterator[tuple[int, str]], options: ReadOptions
    ) -> TraceContent:
        """All requests, or the first `options.limit`; the rest of the file is then not read."""
        number, header = next(lines)
        if header != _HEADER:
            raise source.at(number, header, RowError(shown(header), f"the header {_HEADER}"))
        clock = Clock(_COLUMNS[0])

        def parse(line: str) -> tuple[int, int, int]:
            fields = line.split(",")
            if len(fields) != len(_COLUMNS):
                raise RowError(f"{len(fields)} fields in {shown(line)}", f"three: {_HEADER}")
            time, prompt, output = fields
            counts = csv_count(prompt, _COLUMNS[1]), csv_count(output, _COLUMNS[2])
            return clock.check(_time_ns(time), time), *counts

        rows = list(source.rows(lines, parse, options.limit))
        ids = request_ids([ordinal for ordinal, _ in rows])
        start = rows[0][1][0] if rows else 0
        requests = [
            TraceRequest(
                id=name,
                arrival_ns=arrival - start,
                prompt=SyntheticTokens(2 * ordinal, prompt, options.vocab_size),
                output=SyntheticTokens(2 * ordinal + 1, output, options.vocab_size),
            )
            for name, (ordinal, (arrival, prompt, output)) in zip(ids, rows, strict=True)
        ]
        return TraceContent(requests, {})


def _time_ns(text: str) -> int:
    """Nanoseconds since 1970 of a time written out."""
    minute = _minute(text[:_MINUTE_LENGTH])
    match = _SECOND.fullmatch(text, _MINUTE_LENGTH)
    if minute is None or match is None:
        raise _bad_time(text)
    second, fraction, sign, off_hour, off_minute = match.groups()
    if second > "59":
        raise _bad_time(text)
    if sign:
        offset = int(off_hour) * 60 + int(off_minute)
        minute -= offset if sign == "+" else -offset
    return minute * 60_000_000_000 + int(second + (fraction or "").ljust(9, "0"))


@lru_cache(maxsize=64)  # neighbouring rows share their minute
def _minute(text: str) -> int | None:
    """Minutes since 1970 of a time as far as its minute; None where it is no time."""
    match = _MINUTE.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute = map(int, match.groups())
    try:
        days = date(year, month, day).toordinal() - _EPOCH
    except ValueError:
        return None
    return None if hour > 23 or minute > 59 or days < 0 else (days * 24 + hour) * 60 + minute


def _bad_time(text: str) -> RowError:
    return RowError(
        shown(text),
        "a time such as 2023-11-16 18:17:03.9799600 or 2024-05-10 00:00:00.009930+00:00",
        field=_COLUMNS[0],
    )
