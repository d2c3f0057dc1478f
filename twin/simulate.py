"""`twin simulate`: one run in virtual time, its folder, and the table of its metrics."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twin.failures import Interrupted
from twin.options import Given, options, takes_given

if TYPE_CHECKING:
    from traces.records.run import Run

RECORDING_OPTIONS = (
    click.option(
        "--records",
        default="requests,steps",
        show_default=True,
        metavar="NAMES",
        help="Comma-separated: requests, steps, tokens (each token's time), decisions.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace the run that the folder holds."),
    click.option("--strict", is_flag=True, help="A refused request is an error."),
    click.option(
        "--no-leap",
        "leap",
        flag_value=False,
        default=True,
        help="Walk through every decode step; the run is the same to the byte, and takes longer.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and only that."),
)


EXAMPLES = (
    "\b\nExamples:"
    "\n  twin simulate --workload mooncake-conversation --limit 500"
    "\n  twin simulate --trace my-trace.jsonl.gz --set policy.order=lpm --set device.name=h100"
)


@click.command(epilog=EXAMPLES)
@takes_given
@click.option("--out", metavar="DIR", help="Run folder [runs/WORKLOAD-ORDER].")
@options(*RECORDING_OPTIONS)
def simulate(
    given: Given,
    out: str | None,
    records: str,
    *,
    overwrite: bool,
    strict: bool,
    leap: bool,
    as_json: bool,
) -> None:
    """Replay a trace, or a generated workload, in virtual time.

    Without a config this is Qwen3-8B on one H200 with SGLang's options. The run folder holds the
    records as Parquet; `twin compare` reads it. Ctrl-C keeps what was recorded.
    """
    from simulator.simulation import simulate as run_simulation
    from twin import show

    config = given.load_config()
    wanted = record_names(records)
    workload = given.load_workload(config.seed)
    if out is None:
        from twin.folders import new_folder

        folder = new_folder(f"{workload.name}-{config.policy.order}")
    else:
        folder = Path(out)
    try:
        run = run_simulation(
            workload,
            config,
            out=folder,
            overwrite=overwrite,
            records=wanted,
            strict=strict,
            leap=leap,
            progress=sys.stderr.isatty() and not as_json,
        )
    except KeyboardInterrupt:
        raise Interrupted(kept(folder)) from None
    if as_json:
        show.show_json(show.as_json(run))
    else:
        from traces.records.tables import summary_table

        show.show(summary_table(run))
    click.echo(f"run: {folder}", err=True)


def record_names(text: str) -> list[str]:
    """The names in `--records`.

    Raises:
        RecordError: for an unknown one; the message lists the known.
    """
    from traces.records.schema import check_records

    names = [name.strip() for name in text.split(",") if name.strip()]
    check_records(names)
    return names


def kept(folder: Path) -> str:
    """What an interrupted run has left, in words."""
    from traces.records.errors import RecordError
    from traces.records.run import load_run

    try:
        run = load_run(folder)
    except RecordError:
        return "nothing was recorded"
    return f"{_amounts(run)} are kept in {folder}; read them with `twin compare {folder}`"


def _amounts(run: Run) -> str:
    requests = run.requests
    ended = int(requests["finish_reason"].notna().sum())
    steps = f" and {run.arrow('steps').num_rows:,} steps" if run.has("steps") else ""
    return f"{ended:,} ended requests, {len(requests) - ended:,} unfinished ones{steps}"
