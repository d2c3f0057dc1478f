"""`twin plot`: pictures of runs from their records alone, whichever world wrote them."""

from __future__ import annotations

import click

from twin.failures import bad_input

EXAMPLES = (
    "\b\nExamples:"
    "\n  twin plot runs/demo/fcfs runs/demo/lpm --out plots"
    "\n  twin plot runs/demo/lpm --out slides --theme dark --format svg"
)


@click.command(epilog=EXAMPLES)
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN ...]")
@click.option("--out", required=True, metavar="DIR", help="Folder for the pictures.")
@click.option("--names", metavar="A,B", help="What to call the runs [their folders' names].")
@click.option(
    "--theme",
    type=click.Choice(["light", "dark"]),
    default="light",
    show_default=True,
    help="Light is for print too.",
)
@click.option(
    "--format", "kind", type=click.Choice(["png", "svg"]), default="png", show_default=True
)
def plot(runs: tuple[str, ...], out: str, names: str | None, theme: str, kind: str) -> None:
    """Draw runs: latency, throughput, queues, batches, KV use, cache hits, and tenants.

    What a run's records do not tell is left out: without a step table there are no queues, batches
    and KV use, and tenants are drawn where a run has several.
    """
    from traces.plots.save import save_plots
    from traces.records.run import load_run

    loaded = [load_run(run) for run in runs]
    called = [name.strip() for name in names.split(",")] if names is not None else None
    with bad_input():
        files = save_plots(loaded, out, called, theme=theme, kind=kind)
    for file in files:
        click.echo(str(file))
