"""`twin calibrate`: latency and host fitted to recorded runs, in a profile that says how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twin.failures import BadInput, bad_input

if TYPE_CHECKING:
    from simulator.calibration.profile import CalibratedProfile

EXAMPLES = (
    "\b\nExamples:"
    "\n  twin calibrate runs/served --out profile.json"
    "\n  twin simulate --trace my-trace.jsonl.gz --set latency.model=calibrated \\"
    "\n      --set latency.profile=profile.json --set host.profile=profile.json \\"
    "\n      --set model.path=MODEL --set device.name=DEVICE"
)


@click.command(epilog=EXAMPLES)
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN ...]")
@click.option("--out", required=True, metavar="FILE", help="The profile, JSON.")
@click.option(
    "--hold-out",
    "every",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    metavar="K",
    help="Hold every K-th step out to know the error.",
)
@click.option(
    "--plot/--no-plot", default=True, help="Draw the residuals beside it, as FILE with .png."
)
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and only that.")
def calibrate(
    runs: tuple[str, ...], out: str, every: int, *, plot: bool, overwrite: bool, as_json: bool
) -> None:
    """Fit the simulator's clock to recorded runs of one model on one device.

    Needs runs with steps, better 500 or more in batches of many sizes; with the decision log
    (--records decisions) prefill is known row by row. Prints how far predictions are from steps that
    were held out: every K-th, each whole run where there are several, and the largest work.
    """
    from simulator.calibration.fitting import calibrate as fit
    from traces.records.run import load_run
    from twin import show

    path = Path(out)
    if path.exists() and not overwrite:
        raise BadInput(f"{path} exists already: name another file, or overwrite it (--overwrite)")
    if not path.parent.is_dir():
        raise BadInput(f"{path.parent}: no such folder")
    loaded = [load_run(run) for run in runs]
    with bad_input():
        made = fit(loaded, every=every)
    profile = made.profile
    profile.save(path)
    if as_json:
        show.show_json(profile.model_dump(mode="json"))
    else:
        _show(profile, warned_of=made.warning)
    if made.warning is not None:
        click.echo(f"warning: {made.warning}", err=True)
    click.echo(f"profile: {path}", err=True)
    if plot:
        from simulator.calibration.plots import save_residual_plot

        picture = path.with_suffix(".png")
        save_residual_plot(made, picture)
        click.echo(f"plot: {picture}", err=True)


def _show(profile: CalibratedProfile, *, warned_of: str | None) -> None:
    """The errors as a table, then what there is to know beside them and is not warned of apart."""
    from twin import show

    click.echo(f"{profile.model} on {profile.device}: {profile.steps:,} steps\n")
    show.show_rows(
        ("held out", "steps", "median error", "mean", "p95", "summed time"),
        [
            (
                name,
                f"{e.steps:,}",
                show.percent(e.median),
                show.percent(e.mean),
                show.percent(e.p95),
                show.percent(e.total, "+.1f"),
            )
            for name, e in profile.errors.items()
        ],
    )
    show.show_rows(
        ("measured", "from", "to"),
        [(name, f"{low:,}", f"{high:,}") for name, (low, high) in profile.ranges.items()],
    )
    left = profile.left_out
    if left.steps:
        click.echo(
            f"left out: {left.steps:,} steps, {show.percent(left.time_share)} of the device time; "
            f"{left.why}; the slowest:"
        )
        for line in left.slowest:
            click.echo(f"  {line}")
    for text in profile.approximations:
        if text != warned_of:
            click.echo(f"approximation: {text}")
