"""`twin timeline`: a run as a file that ui.perfetto.dev opens, whichever world wrote it."""

from __future__ import annotations

import math
import re

import click

from twin.failures import BadInput, bad_input

EXAMPLES = (
    "\b\nExamples:"
    "\n  twin timeline runs/demo/lpm --out lpm.json.gz --limit-ms 60000:90000"
    "\n  twin timeline runs/demo/lpm --out lpm.json --requests 50"
)


@click.command(epilog=EXAMPLES)
@click.argument("run", metavar="RUN")
@click.option("--out", required=True, metavar="FILE", help="Name ending .json or .json.gz.")
@click.option(
    "--limit-ms", metavar="A:B", help="Only from A to B milliseconds; either may be empty."
)
@click.option(
    "--requests",
    type=click.IntRange(min=0),
    metavar="N",
    help="Tracks for the first N requests of that time [300].",
)
def timeline(run: str, out: str, limit_ms: str | None, requests: int | None) -> None:
    """Draw a run as a timeline: device, host phases, queue and KV, and a track per request.

    Open the file in https://ui.perfetto.dev or chrome://tracing. Milliseconds count from the first
    arrival. Prefill chunks and retractions need a run with --records steps,decisions, and an
    instant per token one with --records tokens.
    """
    from traces.records.run import load_run
    from traces.timeline.write import REQUESTS, write_timeline

    window = None if limit_ms is None else _window(limit_ms)
    with bad_input():
        written = write_timeline(
            load_run(run),
            out,
            window_ms=window,
            requests=REQUESTS if requests is None else requests,
        )
    for note in written.notes:
        click.echo(f"not shown: {note}", err=True)
    click.echo(
        f"{written.file}: {written.events:,} events, {written.requests:,} of "
        f"{written.requests_there:,} requests; open it in https://ui.perfetto.dev"
    )


def _window(text: str) -> tuple[float, float]:
    """The two times of `A:B`, in milliseconds.

    Raises:
        BadInput: where the text is not of that form.
    """
    match = re.fullmatch(r"\s*([^:]*?)\s*:\s*([^:]*?)\s*", text)
    try:
        if match is not None:
            return float(match[1] or 0), float(match[2] or math.inf)
    except ValueError:
        pass  # said below
    raise BadInput(f"--limit-ms {text}: give it as A:B, two times in milliseconds")
