"""`twin compare`: runs side by side, each against the first, whichever world wrote them."""

from __future__ import annotations

from pathlib import Path

import click

from twin.failures import bad_input

EXAMPLES = "\b\nExamples:\n  twin compare runs/demo/fcfs runs/demo/lpm --plots plots"


@click.command(epilog=EXAMPLES)
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN ...]")
@click.option("--names", metavar="A,B", help="What to call the runs [their folders' names].")
@click.option("--plots", metavar="DIR", help="Draw plots into this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and only that.")
def compare(runs: tuple[str, ...], names: str | None, plots: str | None, *, as_json: bool) -> None:
    """Lay runs side by side, each against the first.

    Where two runs served the same requests, the mean differences of TTFT, TPOT and end-to-end
    latency come with a 95 % confidence interval (a paired bootstrap over blocks of consecutive
    arrivals); where it holds zero, no difference is shown.
    """
    from traces.records.comparison import compare as lay_side_by_side
    from traces.records.run import load_run
    from traces.records.tables import named, summary_table
    from twin import show

    loaded = [load_run(run) for run in runs]
    with bad_input():
        given = [name.strip() for name in names.split(",")] if names is not None else None
        called = list(named(loaded, given))
    if as_json:
        show.show_json(lay_side_by_side(loaded, called).to_dict())
    elif len(loaded) == 1:
        show.show(summary_table(loaded, called))
    else:
        show.show(lay_side_by_side(loaded, called).table())
    if plots is not None:
        show.save_and_name_plots(loaded, Path(plots), called)
