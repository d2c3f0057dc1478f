"""The way in: a trace of any known format, found by what it holds, becomes a `Workload`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from traces.errors import TraceError
from traces.readers.formats import MooncakeArrivals, ReadOptions
from traces.readers.lines import TraceLines
from traces.readers.registry import FORMATS, format_of, recognised
from traces.records.manifest import is_run
from traces.tokens import VOCAB_SIZE
from traces.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from traces.readers.formats import TraceFormat

_SUFFIXES = (".gz", ".zst", ".tar", ".csv", ".jsonl", ".json", ".txt")


def read_trace(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the word a caller looks for
    skip_bad_rows: bool = False,
    limit: int | None = None,
    mooncake_arrivals: MooncakeArrivals = "spread",
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
    block_size: int | None = None,
    encode: Callable[[str], Sequence[int]] | None = None,
) -> Workload:
    """Reads a trace in any of `traces.readers.registry.FORMATS`, plain, gzipped or zstd-compressed.

    Args:
        path: the file, or a folder or tar of files in one format; or the name of a trace of the
            catalogue that has been fetched.
        format: the name of a format; by default found by content.
        skip_bad_rows: leave out rows that cannot be read; `meta` counts them and keeps the first
            few messages. Headers and archives must be sound all the same.
        limit: the first requests only; of a trace in sessions, those of its first sessions.
        mooncake_arrivals: "spread" gives the requests of each arrival batch of a Mooncake file
            uniform times over the batch's interval, "keep" leaves them as stamped.
        seed: what the spreading is drawn from.
        vocab_size: token ids made for prompts and outputs lie below it. A native file says its own.
        block_size: tokens per prefix hash, where a trace does not keep to its format's; one that
            says its own must agree.
        encode: makes token ids of a text, one at least, for formats that hold texts; by default a
            token is made of every four bytes.

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
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1 token, got {block_size}")
    path = _located(path)
    if is_run(path):
        raise TraceError(
            path, "the folder of a run", "a trace (`twin validate` takes a run's requests)"
        )
    source = TraceLines(path, skip_bad_rows)
    head = source.head()
    if not head:
        raise TraceError(path, "an empty file", "a trace with at least one request")
    form = FORMATS[format] if format is not None else recognised(source, head)
    source.hint = lambda line: _other_format(line, form)
    options = ReadOptions(limit, mooncake_arrivals, seed, vocab_size, block_size, encode)
    content = form.read(source, iter(source), options)
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
    name = _stem(path) if content.name is None else content.name
    return Workload(name, content.requests, meta)


def _located(path: str | Path) -> Path:
    """A path as it is or, where nothing is there, that of a fetched trace of this name."""
    if Path(path).exists():
        return Path(path)
    from traces.catalogue import catalogue, find

    name = str(path)
    if name not in catalogue():
        return Path(path)
    fetched = find(name)
    if fetched is None:
        raise TraceError(
            path,
            "no such file; a trace of that name is in the catalogue, not yet fetched",
            f"a trace file, or `twin trace fetch {name}` before",
        )
    return fetched


def _other_format(line: str, form: TraceFormat) -> str:
    other = None if form.recognises(line) else format_of(line)
    if other is None:
        return ""
    return (
        f" (the line reads like {other.name}, the file like {form.name}: "
        "a trace file holds one format)"
    )


def _stem(path: Path) -> str:
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name or path.name
