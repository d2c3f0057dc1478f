"""`twin trace`: public traces, their formats, what a workload holds, and workloads made like them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from twin.failures import BadInput, bad_input
from twin.options import READING_OPTIONS, generated, options, read_workload
from twin.trace_files import catalogue, convert, fetch, formats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from traces.generate import WorkloadSpec
    from traces.inspect import Measured
    from traces.workload import TraceRequest


@click.group()
def trace() -> None:
    """Fetch, read, convert, inspect and generate workloads."""


for command in (catalogue, fetch, formats, convert):
    trace.add_command(command)


INSPECT_EXAMPLES = (
    "\b\nExamples:"
    "\n  twin trace inspect mine.jsonl.gz"
    "\n  twin trace inspect conversation_trace.jsonl mooncake-conversation --plot likeness.png"
)


@trace.command(epilog=INSPECT_EXAMPLES)
@click.argument("sources", metavar="PATH|NAME|PRESET...", nargs=-1, required=True)
@options(*READING_OPTIONS)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of all that is drawn.")
@click.option(
    "--block-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens per block in which prefix sharing is counted [the first one's own, or 512].",
)
@click.option("--plot", metavar="FILE", help="Draw their distributions: PNG or SVG.")
@click.option("--theme", type=click.Choice(["light", "dark"]), default="light", help="Of the plot.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and only that.")
def inspect(
    sources: tuple[str, ...],
    limit: int | None,
    mooncake_arrivals: Literal["spread", "keep"],
    seed: int,
    block_size: int | None,
    plot: str | None,
    theme: str,
    *,
    skip_bad_rows: bool,
    as_json: bool,
) -> None:
    """Say what a trace or a preset holds: rate, burstiness, lengths, sessions, shared prefixes.

    Several stand side by side, with the distance of each one's distributions from the first's.

    The hit ratios are those of one request at a time: what an endless cache, and LRU caches of so
    many blocks, would save of the prompt tokens.
    """
    from traces.generate import presets
    from traces.inspect import measure
    from traces.likeness import distances, side_by_side
    from twin import show

    several: list[Measured] = []
    for source in sources:
        with bad_input():
            if source in presets() and not Path(source).exists():
                work = generated(source, n=limit, seed=seed)
            else:
                work = read_workload(source, limit, skip_bad_rows, mooncake_arrivals, seed)
            several.append(measure(work, block_size=block_size))
        block_size = several[0].reuse.block_size
    if plot is not None:
        _plot_likeness(several, plot, theme)
    if not as_json:
        show.show_rows(*side_by_side(several))
    elif len(several) == 1:
        show.show_json(several[0].summary().to_dict())
    else:
        first, *others = several
        found = {
            "traces": [one.summary().to_dict() for one in several],
            "ks_distance_to_first": [distances(first, other) for other in others],
        }
        show.show_json(found)


def _plot_likeness(several: Sequence[Measured], file: str, theme: str) -> None:
    from traces.plots.save import save_figure
    from traces.plots.workloads import workload_likeness

    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with bad_input():
        save_figure(workload_likeness(several, theme=theme), path)
    click.echo(f"plot: {path}", err=True)


GENERATE_EXAMPLES = (
    "\b\nExamples:"
    "\n  twin trace generate --preset mooncake-conversation --n 1000 --seed 1 --out mine.jsonl.gz"
    "\n  twin trace generate --preset weka-agents --sessions 50 --out agents.jsonl.gz"
    "\n  twin trace generate --spec mine.yaml --set arrivals.rate=8 --out mine.jsonl"
    "\n\n\b\nA spec is YAML:"
    "\n  n: 1000"
    "\n  arrivals: {kind: gamma, shape: 0.5, rate: 4}"
    "\n  lengths: {input: {kind: lognormal, mu: 6.2, sigma: 1.0}, output: 256}"
    "\n  prefix: {kind: groups, groups: 8, system_tokens: 1024}"
    "\n\n`twin trace presets --show NAME` prints a longer one."
)


@trace.command(epilog=GENERATE_EXAMPLES)
@click.option("--preset", metavar="NAME", help="What to generate; see `twin trace presets`.")
@click.option("--spec", metavar="FILE", help="What to generate, described in YAML.")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of either, as lengths.output=128; repeatable.",
)
@click.option("--n", type=click.IntRange(min=1), help="Requests [as many as the preset's trace].")
@click.option("--sessions", type=click.IntRange(min=1), help="Sessions, with all their requests.")
@click.option("--duration", type=float, metavar="SECONDS", help="Seconds to fill.")
@click.option(
    "--rate", type=float, metavar="R", help="Requests, or sessions, per second [its own]."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of all that is drawn.")
@click.option(
    "--out", required=True, metavar="FILE", help="Native JSONL, compressed if it ends .gz or .zst."
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def generate(
    preset: str | None,
    spec: str | None,
    settings: tuple[str, ...],
    n: int | None,
    sessions: int | None,
    duration: float | None,
    rate: float | None,
    seed: int,
    out: str,
    *,
    overwrite: bool,
) -> None:
    """Write a generated workload as a native trace: the same arguments, the same bytes.

    Requests are written as they are made, so any number fits into memory.
    """
    from dataclasses import replace

    from traces.generate import generate_stream
    from traces.native import write_native

    path = Path(out)
    if path.exists() and not overwrite:
        raise BadInput(f"{path} exists: name another file, or --overwrite it")
    described = _described(preset, spec, settings)
    with bad_input():
        stream = generate_stream(
            described, n=n, sessions=sessions, duration_s=duration, rate=rate, seed=seed
        )
    count, last_ns = 0, 0

    def counted() -> Iterator[TraceRequest]:
        nonlocal count, last_ns
        for request in stream:
            count, last_ns = count + 1, request.arrival_ns
            yield request

    path.parent.mkdir(parents=True, exist_ok=True)
    write_native(replace(stream, requests=counted()), path)
    click.echo(f"{path}: {count:,} requests over {last_ns / 1e9:,.1f} s")


def _described(preset: str | None, spec: str | None, settings: Sequence[str]) -> WorkloadSpec:
    """The description to generate from: a preset or a file, with settings over it."""
    from policies.config import load_config, make_config
    from traces.generate import WorkloadSpec
    from traces.generate.library import preset_options

    if (preset is None) == (spec is None):
        raise click.UsageError("give either --preset NAME or --spec FILE")
    # the config's own reader: any pydantic model will do
    model = cast("Any", WorkloadSpec)
    if preset is None:
        return cast("WorkloadSpec", load_config(model, spec, settings))
    with bad_input():
        options = preset_options(preset)
    return cast("WorkloadSpec", make_config(model, options, settings, source=preset))


@trace.command()
@click.option("--show", "shown", metavar="NAME", help="Print one as YAML, as --spec takes it.")
def presets(shown: str | None) -> None:
    """List the workloads that can be generated."""
    from traces.generate import presets as known
    from traces.generate.library import preset_text
    from twin import show

    if shown is not None:
        with bad_input():
            click.echo(preset_text(shown), nl=False)
        return
    rows = [
        (
            name,
            f"{spec.sessions:,} sessions" if spec.sessions else f"{spec.n or 0:,} requests",
            spec.licence,
            spec.description,
            spec.source,
        )
        for name, spec in known().items()
    ]
    show.show_rows(("preset", "holds", "licence", "what it is", "fitted to"), rows)
