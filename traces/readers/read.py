"""The way in: a trace file of any known format, found by what it holds, becomes a `Workload`."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from traces.errors import RowError, TraceError, shown
from traces.native import NativeFormat
from traces.readers.azure import AzureFormat
from traces.readers.fields import json_row
from traces.readers.formats import MooncakeArrivals, ReadOptions
from traces.readers.lines import TraceLines
from traces.readers.mooncake import MooncakeFormat
from traces.tokens import VOCAB_SIZE
from traces.workload import Workload

if TYPE_CHECKING:
    from traces.readers.formats import TraceFormat

FORMATS: dict[str, TraceFormat] = {
    form.name: form for form in (AzureFormat(), MooncakeFormat(), NativeFormat())
}
_LINES_LOOKED_AT = 20
_SUFFIXES = (".gz", ".csv", ".jsonl", ".json", ".txt")


def read_trace(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the word a caller looks for
    skip_bad_rows: bool = False,
    limit: int | None = None,
    mooncake_arrivals: MooncakeArrivals = "spread",
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
) -> Workload:
    """Reads a trace: Azure CSV, Mooncake JSONL or native JSONL, plain or gzipped.

    Args:
        path: the file.
        format: "azure", "mooncake" or "native"; by default found by content.
        skip_bad_rows: leave out rows that cannot be read; `meta` counts them and keeps the first
            few messages. Headers and archives must be sound all the same.
        limit: the first requests only.
        mooncake_arrivals: "spread" gives the requests of each arrival batch of a Mooncake file
            uniform times over the batch's interval, "keep" leaves them as stamped.
        seed: what the spreading is drawn from.
        vocab_size: token ids made for prompts and outputs lie below it. A native file says its own.

    Returns:
        The requests, and in `meta`: `path`, `format`, `sha256` of the uncompressed content (None
        when `limit` ended the reading early), `rows`, `skipped_rows`, `skipped_messages`, and what
        the format adds. The name is the file's, without its suffixes, or the one a native file has.

    Raises:
        TraceError: the file, or a row in it, cannot be read as a trace.
        ValueError: an argument outside what is said above.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"unknown trace format {format!r}; known: {', '.join(FORMATS)}")
    if mooncake_arrivals not in get_args(MooncakeArrivals):
        known = ", ".join(get_args(MooncakeArrivals))
        raise ValueError(f"unknown mooncake_arrivals {mooncake_arrivals!r}; known: {known}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 request, got {limit}")
    source = TraceLines(Path(path), skip_bad_rows)
    lines = iter(source)
    head = list(islice(lines, _LINES_LOOKED_AT))
    if not head:
        raise TraceError(path, "an empty file", "a trace with at least one request")
    form = FORMATS[format] if format is not None else _recognised(source, head)
    source.hint = lambda line: _other_format(line, form)
    options = ReadOptions(limit, mooncake_arrivals, seed, vocab_size)
    content = form.read(source, chain(head, lines), options)
    if not content.requests:
        skipped = f"; the first: {source.messages[0]}" if source.messages else ""
        raise TraceError(
            path,
            f"an empty trace ({source.skipped} bad rows left out{skipped})",
            "at least one request",
        )
    meta = {
        "path": str(path),
        "format": form.name,
        "sha256": source.sha256,
        "rows": len(content.requests),
        "skipped_rows": source.skipped,
        "skipped_messages": source.messages,
        **content.meta,
    }
    name = _stem(Path(path)) if content.name is None else content.name
    return Workload(name, content.requests, meta)


def _recognised(source: TraceLines, head: list[tuple[int, str]]) -> TraceFormat:
    """The format of the first line that any format knows as its own."""
    for _, line in head:
        for form in FORMATS.values():
            if form.recognises(line):
                return form
    number, line = head[0]
    if line.startswith("{"):
        try:
            json_row(line)
        except RowError as error:
            raise source.at(number, line, error) from None
    known = "; ".join(f"{form.name}: {form.described}" for form in FORMATS.values())
    raise TraceError(
        source.path, f"no known trace format in {shown(line)}", f"one of {known}", line=number
    )


def _other_format(line: str, form: TraceFormat) -> str:
    for other in FORMATS.values():
        if other is not form and other.recognises(line):
            return (
                f" (the line reads like {other.name}, the file like {form.name}: "
                "a trace file holds one format)"
            )
    return ""


def _stem(path: Path) -> str:
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name or path.name
