"""What the scheduler had before it: requests waiting and requests running, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.plots.binning import centres, edges, mean_over_time, span
from traces.plots.style import TimeAxis, theme_named
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from traces.records.run import Run


def queue_length(
    runs: Run | Sequence[Run], names: Sequence[str] | None = None, *, theme: str = "light"
) -> Figure:
    """Requests waiting and requests running, averaged over time in each bin.

    Raises:
        RecordError: where a run has no steps.
        ValueError: where names are not one for each run, all different; for an unknown theme.
    """
    by_name, style = named(runs, names), theme_named(theme)
    start, end = span(list(by_name.values()))
    bounds, axis = edges(start, end), TimeAxis.over(start, end)
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
