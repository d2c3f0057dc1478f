"""What fills the KV pool over time: held by requests, kept for later prefixes, free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.plots.binning import centres, edges, mean_over_time, span
from traces.plots.style import TimeAxis, theme_named
from traces.records.errors import RecordError
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from traces.records.run import Run

NAMES = ("held by requests", "cached, evictable", "free")


def kv_use(
    runs: Run | Sequence[Run], names: Sequence[str] | None = None, *, theme: str = "light"
) -> Figure:
    """Shares of the KV pool, stacked; a panel for each run.

    Raises:
        RecordError: where a run has no steps, or its manifest no KV capacity.
        ValueError: where names are not one for each run, all different; for an unknown theme.
    """
    by_name, style = named(runs, names), theme_named(theme)
    start, end = span(list(by_name.values()))
    bounds, axis = edges(start, end), TimeAxis.over(start, end)
    figure, axes = style.panels(len(by_name), 1, 1.0 + 1.7 * len(by_name), sharex=True)
    handles = []
    for ax, (name, run) in zip(axes, by_name.items(), strict=True):
        # Up to the first and last edge, so that no strip at the sides stays white.
        times = np.concatenate([bounds[:1], centres(bounds), bounds[-1:]])
        shares = [np.pad(share, 1, mode="edge") for share in _shares(run, name, bounds)]
        handles = ax.stackplot(axis(times), shares, colors=style.fills, linewidth=0)
        ax.set_ylim(0, 100)
        ax.set_xlim(*axis(bounds[[0, -1]]))
        ax.set_yticks([0, 25, 50, 75, 100])
        style.title(ax, name)
        style.labels(ax, y="KV pool (%)")
    style.labels(axes[-1], axis.label)
    style.legend(figure, handles, NAMES)
    return figure


def _shares(run: Run, name: str, bounds: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Held, evictable and free in percent of the capacity, for each bin; all free at first."""
    capacity = run.manifest.get("kv_capacity_tokens")
    if not capacity:
        raise RecordError(
            f"run {name}: its manifest has no kv_capacity_tokens, so KV use has no scale"
        )
    steps = run.steps
    launch = steps["launch_ns"].to_numpy()
    free = steps["free_tokens"].to_numpy(np.float64)
    evictable = steps["evictable_tokens"].to_numpy(np.float64)
    held, kept = (
        100 * mean_over_time(launch, tokens, bounds) / capacity
        for tokens in (capacity - free - evictable, evictable)
    )
    return [held, kept, 100 - held - kept]
