"""`twin trace`: what a workload holds, and workloads made with the statistics of a known trace."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from twin.failures import BadInput, bad_input
from twin.options import READING_OPTIONS, generated, options, read_workload


@click.group()
def trace() -> None:
    """Inspect and generate workloads."""


@trace.command()
@click.argument("source", metavar="PATH|PRESET")
@options(*READING_OPTIONS)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of all that is drawn.")
@click.option(
    "--block-size",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens per block in which prefix sharing is counted.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and only that.")
def inspect(
    source: str,
    limit: int | None,
    mooncake_arrivals: Literal["spread", "keep"],
    seed: int,
    block_size: int,
    *,
    skip_bad_rows: bool,
    as_json: bool,
) -> None:
    """Say what a trace or a preset holds: rate, burstiness, lengths, shared prefixes.

    The hit ratios are those of one request at a time: what an endless cache, and LRU caches of so
    many blocks, would save of the prompt tokens.
    """
    from traces.generate import presets
    from traces.inspect import inspect as summarise
    from twin import show

    with bad_input():
        if source in presets() and not Path(source).exists():
            work = generated(source, n=limit, seed=seed)
        else:
            work = read_workload(source, limit, skip_bad_rows, mooncake_arrivals, seed)
    summary = summarise(work, block_size=block_size)
    if as_json:
        show.show_json(summary.to_dict())
    else:
        show.show_rows((work.name, ""), summary.table())


EXAMPLES = (
    "\b\nExamples:"
    "\n  twin trace generate --preset mooncake-conversation --n 1000 --seed 1 --out mine.jsonl.gz"
)


@trace.command(epilog=EXAMPLES)
@click.option("--preset", required=True, help="What to generate; see `twin trace presets`.")
@click.option("--n", type=click.IntRange(min=1), help="Requests [as many as the preset's trace].")
@click.option("--duration", type=float, metavar="SECONDS", help="Seconds to fill.")
@click.option("--rate", type=float, metavar="R", help="Requests per second [the preset's own].")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of all that is drawn.")
@click.option("--out", required=True, metavar="FILE", help="Native JSONL, gzipped if it ends .gz.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def generate(
    preset: str,
    n: int | None,
    duration: float | None,
    rate: float | None,
    seed: int,
    out: str,
    *,
    overwrite: bool,
) -> None:
    """Write a generated workload as a native trace: the same arguments, the same bytes."""
    from traces.native import write_native

    path = Path(out)
    if path.exists() and not overwrite:
        raise BadInput(f"{path} exists: name another file, or --overwrite it")
    with bad_input():
        work = generated(preset, n=n, duration_s=duration, rate=rate, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_native(work, path)
    seconds = work.duration_ns / 1e9
    click.echo(f"{path}: {len(work):,} requests over {seconds:,.1f} s")


@trace.command()
def presets() -> None:
    """List the workloads that can be generated."""
    from traces.generate import presets as known
    from twin import show

    rows = [(p.name, f"{p.n:,}", p.licence, p.description, p.source) for p in known().values()]
    show.show_rows(("preset", "requests", "licence", "what it is", "fitted to"), rows)
