"""What the scheduler had before it and what it made of it: queues and batches over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.plots import style
from traces.plots.binning import centres, edges, mean_by_bin, mean_over_time, span
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from traces.records.run import Run

#: Batches differ from step to step: fewer bins, so that a mean is one.
BATCH_BINS = 120


def queue_length(runs: Run | Sequence[Run], names: Sequence[str] | None = None) -> Figure:
    """Requests waiting and requests running, averaged over time in each bin.

    Raises:
        RecordError: where a run has no steps.
        ValueError: where names are not one for each run, all different.
    """
    by_name = named(runs, names)
    start, end = span(list(by_name.values()))
    bounds, axis = edges(start, end), style.TimeAxis.over(start, end)
    figure, axes = style.panels(2, 1, 4.6, sharex=True)
    handles = []
    for i, run in enumerate(by_name.values()):
        for ax, column in zip(axes, ("waiting", "running"), strict=True):
            mean = mean_over_time(*_until_idle(run.steps, column), bounds)
            (handle,) = ax.plot(axis(centres(bounds)), mean, **style.line(i))
        handles.append(handle)
    for ax, text in zip(axes, ("Waiting", "Running"), strict=True):
        ax.set_ylim(bottom=0)
        ax.margins(x=0.01)
        style.title(ax, text)
        style.labels(ax, y="requests")
    style.labels(axes[-1], axis.label)
    style.legend(figure, handles, list(by_name))
    return figure


def batch_size(runs: Run | Sequence[Run], names: Sequence[str] | None = None) -> Figure:
    """New prompt tokens per step with a prefill, and requests per step with a decode.

    Bins without such a step are passed over. Lines are the mean of the steps in a bin; where
    there is one run, the largest is shown too.

    Raises:
        RecordError: where a run has no steps.
        ValueError: where names are not one for each run, all different.
    """
    by_name = named(runs, names)
    start, end = span(list(by_name.values()))
    bounds, axis = edges(start, end, BATCH_BINS), style.TimeAxis.over(start, end)
    figure, axes = style.panels(2, 1, 4.6, sharex=True)
    handles, shown = [], list(by_name)
    for i, run in enumerate(by_name.values()):
        for ax, column in zip(axes, ("prefill_tokens", "decode_requests"), strict=True):
            steps = run.steps[run.steps[column] > 0]
            times, values = steps["launch_ns"].to_numpy(), steps[column].to_numpy(np.float64)
            mean, most = mean_by_bin(times, values, bounds)
            some = ~np.isnan(mean)
            middles = axis(centres(bounds)[some])
            (handle,) = ax.plot(middles, mean[some], **style.line(i))
            if len(by_name) == 1:
                (peak,) = ax.plot(middles, most[some], color=style.FAINT, linewidth=0.8)
        handles.append(handle)
    if len(by_name) == 1:
        handles, shown = [handle, peak], [f"{shown[0]}: mean", "largest"]
    for ax, text, unit in zip(
        axes,
        ("Prefill batch", "Decode batch"),
        ("new tokens per step", "requests per step"),
        strict=True,
    ):
        ax.set_ylim(bottom=0)
        ax.margins(x=0.01)
        style.title(ax, text)
        style.labels(ax, y=unit)
    style.labels(axes[-1], axis.label)
    style.legend(figure, handles, shown)
    return figure


def _until_idle(steps: pd.DataFrame, column: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """When the column changes, and to what: each step's value from its launch, 0 when idle.

    No step is recorded while nothing runs. A gap after a commit that is longer than the step took
    is no scheduling but idling.
    """
    launch, commit = steps["launch_ns"].to_numpy(), steps["commit_ns"].to_numpy()
    values = steps[column].to_numpy(np.float64)
    following = np.append(launch[1:], np.iinfo(np.int64).max)
    idle = np.flatnonzero(following - commit > np.maximum(commit - launch, 1))
    times = np.concatenate([launch, commit[idle]])
    order = np.argsort(times, kind="stable")
    return times[order], np.concatenate([values, np.zeros(len(idle))])[order]
