"""What the scheduler made of its queue: how large prefill and decode batches were, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.plots.binning import centres, edges, mean_by_bin, span
from traces.plots.style import TimeAxis, theme_named
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from traces.records.run import Run

#: Batches differ from step to step: fewer bins, so that a mean is one.
BINS = 120
PANELS = (
    ("prefill_tokens", "Prefill batch", "new tokens per step"),
    ("decode_requests", "Decode batch", "requests per step"),
)


def batch_size(
    runs: Run | Sequence[Run], names: Sequence[str] | None = None, *, theme: str = "light"
) -> Figure:
    """New prompt tokens per step with a prefill, and requests per step with a decode.

    Bins without such a step are passed over. Lines are the mean of the steps in a bin; where
    there is one run, the largest is shown too.

    Raises:
        RecordError: where a run has no steps.
        ValueError: where names are not one for each run, all different; for an unknown theme.
    """
    by_name, style = named(runs, names), theme_named(theme)
    start, end = span(list(by_name.values()))
    bounds, axis = edges(start, end, BINS), TimeAxis.over(start, end)
    figure, axes = style.panels(2, 1, 4.6, sharex=True)
    handles, shown = [], list(by_name)
    for i, run in enumerate(by_name.values()):
        for ax, (column, _, _) in zip(axes, PANELS, strict=True):
            steps = run.steps[run.steps[column] > 0]
            times, values = steps["launch_ns"].to_numpy(), steps[column].to_numpy(np.float64)
            mean, most = mean_by_bin(times, values, bounds)
            some = ~np.isnan(mean)
            middles = axis(centres(bounds)[some])
            (handle,) = ax.plot(middles, mean[some], **style.line(i))
            if len(by_name) == 1:
                (peak,) = ax.plot(middles, most[some], color=style.faint, linewidth=0.8)
        handles.append(handle)
    if len(by_name) == 1:
        handles, shown = [handle, peak], [f"{shown[0]}: mean", "largest"]
    for ax, (_, text, unit) in zip(axes, PANELS, strict=True):
        ax.set_ylim(bottom=0)
        ax.margins(x=0.01)
        style.title(ax, text)
        style.labels(ax, y=unit)
    style.labels(axes[-1], axis.label)
    style.legend(figure, handles, shown)
    return figure
