"""How latency is spread: the share of requests that were served at least as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from traces.plots import style
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
PANELS = (
    ("ttft", "Time to first token", "s", 1e9),
    ("tpot", "Time per output token", "ms", 1e6),
    ("e2e", "End-to-end latency", "s", 1e9),
)


def latency_ecdf(runs: Run | Sequence[Run], names: Sequence[str] | None = None) -> Figure:
    """The empirical distribution of TTFT, TPOT and end-to-end latency, on logarithmic axes.

    Raises:
        ValueError: where names are not one for each run, all different.
    """
    by_name = named(runs, names)
    figure, axes = style.panels(1, len(PANELS), 3.4, sharey=True)
    handles = []
    for i, run in enumerate(by_name.values()):
        times = request_times(run)
        for ax, (latency, _, _, unit_ns) in zip(axes, PANELS, strict=True):
            curve = _ecdf(getattr(times, latency) / unit_ns)
            (handle,) = ax.plot(*curve, **style.line(i))
        handles.append(handle)
    for ax, (_, text, unit, _) in zip(axes, PANELS, strict=True):
        _scales(ax)
        style.title(ax, text)
        style.labels(ax, f"{unit}, logarithmic")
    style.labels(axes[0], y="share of requests (%)")
    style.legend(figure, handles, list(by_name))
    return figure


def _ecdf(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def _scales(ax: Axes) -> None:
    if np.isfinite(ax.dataLim.minposx):  # no finished request, no scale
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=7))
    ax.set_ylim(0, 101)
    ax.set_yticks([0, 25, 50, 75, 90, 99], ["0", "25", "50", "75", "90", "99"])
    plain = FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:.0e}")
    ax.xaxis.set_major_formatter(plain)
    ax.xaxis.set_minor_formatter(NullFormatter())
