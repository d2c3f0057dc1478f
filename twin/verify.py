"""`twin verify`: a recorded run's decisions, taken once more from what it was told."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from twin.options import PLUGIN_OPTIONS, options

if TYPE_CHECKING:
    from simulator.verify import Verdict

EXAMPLES = (
    "\b\nExamples:"
    "\n  twin simulate --workload mooncake-conversation --limit 500 --records decisions --out a"
    "\n  twin verify a"
)


@click.command(epilog=EXAMPLES)
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN ...]")
@options(*PLUGIN_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and only that.")
@click.pass_context
def verify(
    ctx: click.Context,
    runs: tuple[str, ...],
    policy_files: tuple[str, ...],
    modules: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Take the decisions of recorded runs once more, and see that they are the same.

    A run of either world will do, with decisions among its records: a scheduler is told what the run
    was told (what came in, what was sampled), and has to plan every batch again, item by item. Says
    `identical`, or the first step that differs and why, and exits with 1.
    """
    from simulator.verify import verify as take_again
    from traces.records.run import load_run
    from twin import show
    from twin.plugins import load_plugins

    load_plugins(policy_files, modules)
    verdicts: list[Verdict] = []
    for loaded in [load_run(run) for run in runs]:
        verdict = take_again(loaded)
        verdicts.append(verdict)
        if not as_json:
            click.echo(verdict if len(runs) == 1 else f"{loaded.path}: {verdict}")
    if as_json:
        show.show_json([_as_json(*pair) for pair in zip(runs, verdicts, strict=True)])
    if not all(verdict.identical for verdict in verdicts):
        ctx.exit(1)


def _as_json(run: str, verdict: Verdict) -> dict[str, Any]:
    return {"run": run, "identical": verdict.identical, **asdict(verdict)}
