"""How latency is spread: the share of requests that were served at least as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from traces.plots.style import theme_named
from traces.records.metrics import request_times
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from traces.records.run import Run

#: Points of a curve: finer than a printer's dots.
POINTS = 1_000
MOST_TICKS = 5
PANELS = (
    ("ttft", "Time to first token", "s", 1e9),
    ("tpot", "Time per output token", "ms", 1e6),
    ("e2e", "End-to-end latency", "s", 1e9),
)


def latency_ecdf(
    runs: Run | Sequence[Run], names: Sequence[str] | None = None, *, theme: str = "light"
) -> Figure:
    """The empirical distribution of TTFT, TPOT and end-to-end latency, on logarithmic axes.

    Raises:
        ValueError: where names are not one for each run, all different; for an unknown theme.
    """
    by_name, style = named(runs, names), theme_named(theme)
    figure, axes = style.panels(1, len(PANELS), 3.4, sharey=True)
    handles = []
    for i, run in enumerate(by_name.values()):
        times = request_times(run)
        for ax, (latency, _, _, unit_ns) in zip(axes, PANELS, strict=True):
            curve = ecdf(getattr(times, latency) / unit_ns)
            (handle,) = ax.plot(*curve, **style.line(i))
        handles.append(handle)
    for ax, (_, text, unit, _) in zip(axes, PANELS, strict=True):
        share_scale(ax)
        log_scale(ax)
        style.title(ax, text)
        style.labels(ax, f"{unit}, logarithmic")
    style.labels(axes[0], y="share of requests (%)")
    style.legend(figure, handles, list(by_name))
    return figure


def ecdf(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `POINTS` points of the distribution function: values, and shares in percent.

    What took no time at all has no place on a logarithmic axis and is counted at the left.
    """
    ordered = np.sort(values[~np.isnan(values)])
    share = 100 * np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    shown = ordered > 0
    ordered, share = ordered[shown], share[shown]
    if len(ordered) > POINTS:
        pick = np.unique(np.linspace(0, len(ordered) - 1, POINTS).astype(np.int64))
        ordered, share = ordered[pick], share[pick]
    return ordered, share


def share_scale(ax: Axes) -> None:
    """Shares of requests in percent, with those that latencies are quoted at marked."""
    ax.set_ylim(0, 101)
    ax.set_yticks([0, 25, 50, 75, 90, 99], ["0", "25", "50", "75", "90", "99"])


def log_scale(ax: Axes) -> None:
    """A logarithmic axis of durations, once they are drawn; without any, no scale."""
    if np.isfinite(ax.dataLim.minposx):
        ax.set_xscale("log")
        # within a decade or two, powers of ten alone can leave the axis without a number
        narrow = ax.dataLim.x1 < 50 * ax.dataLim.minposx
        locator = LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=7)
        low, high = sorted(ax.get_xlim())
        # where hardly one of them is within, it takes as many round numbers as it likes
        many = sum(low <= tick <= high for tick in locator.tick_values(low, high)) > MOST_TICKS
        ax.xaxis.set_major_locator(MaxNLocator(3) if many else locator)
    plain = FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:.0e}")
    ax.xaxis.set_major_formatter(plain)
    ax.xaxis.set_minor_formatter(NullFormatter())
