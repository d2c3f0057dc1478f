"""What the prefix cache saved over time: the share of prompt tokens that it held at admission.

A request counts once, when it first entered a batch, with the prefix found then; so the whole run's
value is the hit ratio of its table. Chunks and prefills after a retraction find what the request
itself had computed, which is no hit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.plots.binning import centres, edges, span
from traces.plots.style import TimeAxis, theme_named
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from traces.records.run import Run

#: Few enough that a bin holds several requests.
BINS = 60


def cache_hits(
    runs: Run | Sequence[Run], names: Sequence[str] | None = None, *, theme: str = "light"
) -> Figure:
    """The cache hit ratio of the requests admitted in each bin, and of all up to then.

    Bins in which nothing was admitted are passed over.

    Raises:
        ValueError: where names are not one for each run, all different; for an unknown theme.
    """
    by_name, style = named(runs, names), theme_named(theme)
    start, end = span(list(by_name.values()))
    bounds, axis = edges(start, end, BINS), TimeAxis.over(start, end)
    figure, axes = style.panels(2, 1, 4.6, sharex=True)
    handles = []
    for i, run in enumerate(by_name.values()):
        cached, prompt = admitted_tokens(run, bounds)
        totals = np.cumsum(cached), np.cumsum(prompt)
        for ax, (hits, tokens), at in zip(
            axes, ((cached, prompt), totals), (centres(bounds), bounds[1:]), strict=True
        ):
            some = tokens > 0
            (handle,) = ax.plot(axis(at[some]), 100 * hits[some] / tokens[some], **style.line(i))
        handles.append(handle)
    width_s = (bounds[1] - bounds[0]) / 1e9
    for ax, text in zip(
        axes, (f"Cache hits, in bins of {width_s:,.3g} s", "Cache hits, up to then"), strict=True
    ):
        ax.set_ylim(bottom=0)
        ax.margins(x=0.01)
        style.title(ax, text)
        style.labels(ax, y="prompt tokens (%)")
    style.labels(axes[-1], axis.label)
    style.legend(figure, handles, list(by_name))
    return figure


def admitted_tokens(
    run: Run, bounds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cached and prompt tokens of the requests that first entered a batch in each bin."""
    admitted = run.requests[run.requests["first_scheduled_ns"].notna()]
    when = admitted["first_scheduled_ns"].to_numpy(np.float64)
    cached, prompt = (
        np.histogram(when, bounds, weights=admitted[name].to_numpy(np.float64))[0]
        for name in ("cached_tokens", "prompt_tokens")
    )
    return cached, prompt
