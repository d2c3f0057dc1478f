"""`twin trace catalogue`, `fetch`, `formats` and `convert`: public traces, and how they are written."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from twin.failures import BadInput, RunFailed, bad_input
from twin.options import READING_OPTIONS, options, read_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@click.command()
def catalogue() -> None:
    """List the public traces that can be fetched."""
    from traces.catalogue import catalogue as known
    from traces.catalogue import find
    from twin import show

    rows = [
        (
            e.name,
            "yes" if find(e.name) else "",
            e.format,
            "?" if e.bytes is None else f"{e.bytes / 1e6:,.1f} MB",
            e.licence,
            e.verified,
            e.what,
            e.url,
        )
        for e in known().values()
    ]
    head = ("trace", "fetched", "format", "size", "licence", "checked by", "what it is", "from")
    show.show_rows(head, rows)


@click.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Download a public trace into the cache, and check it.

    `--trace NAME` then finds it, in every command that reads a trace.
    """
    from traces.catalogue import FetchError, entry_of
    from traces.catalogue import fetch as download

    try:
        entry = entry_of(name)
    except FetchError as error:
        raise BadInput(str(error)) from None
    try:
        with _download_bar(name) as progress:
            path = download(name, progress=progress)
    except FetchError as error:
        raise RunFailed(str(error)) from None
    if entry.verified == "none":
        click.echo(f"{name}: no checksum is known of this file; it came whole", err=True)
    click.echo(f"{path}")
    click.echo(f"licence: {entry.licence}", err=True)


@contextmanager
def _download_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows how far a download is, on stderr, where somebody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@click.command()
def formats() -> None:
    """List the trace formats that can be read, and which of them can be written."""
    from traces.readers.registry import FORMATS
    from traces.writers.write import WRITERS
    from twin import show

    rows = [
        (
            form.name,
            "yes" if form.name in WRITERS else "",
            form.facts.unit or "-",
            form.facts.blocks or "-",
            form.facts.sessions or "-",
            form.described,
        )
        for form in FORMATS.values()
    ]
    head = ("format", "written", "times in", "tokens per hash", "sessions", "recognised by")
    show.show_rows(head, rows)


CONVERT_EXAMPLES = (
    "\b\nExamples:"
    "\n  twin trace convert sessions.tar.zst --to native --out sessions.jsonl.gz"
    "\n  twin trace convert mine.jsonl --to mooncake --lossy --out mine.mooncake.jsonl"
)


@click.command(epilog=CONVERT_EXAMPLES)
@click.argument("source", metavar="PATH|NAME")
@click.option("--to", "target", required=True, metavar="FORMAT", help="See `twin trace formats`.")
@click.option("--out", required=True, metavar="FILE", help="Compressed if it ends .gz or .zst.")
@options(*READING_OPTIONS)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of all that is drawn.")
@click.option(
    "--block-size",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens per prefix hash in what is written.",
)
@click.option("--lossy", is_flag=True, help="Leave out what the format cannot hold, and say what.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def convert(
    source: str,
    target: str,
    out: str,
    limit: int | None,
    mooncake_arrivals: Literal["spread", "keep"],
    seed: int,
    block_size: int,
    *,
    skip_bad_rows: bool,
    lossy: bool,
    overwrite: bool,
) -> None:
    """Write a trace in another format, for other tools to replay."""
    from traces.writers.write import WRITERS, write_trace

    path = Path(out)
    if target not in WRITERS:
        raise BadInput(f"cannot write the format {target!r}; known: {', '.join(WRITERS)}")
    if path.exists() and not overwrite:
        raise BadInput(f"{path} exists: name another file, or --overwrite it")
    with bad_input():
        work = read_workload(source, limit, skip_bad_rows, mooncake_arrivals, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        losses = write_trace(work, path, target, lossy=lossy, block_size=block_size)
    click.echo(f"{path}: {len(work):,} requests")
    for what, count in losses.items():
        click.echo(f"lost: {what} ({count:,} requests)", err=True)
