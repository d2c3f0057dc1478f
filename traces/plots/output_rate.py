"""How fast output tokens and requests come out, over time.

Where token times were recorded they are counted. Where they were not, a request's tokens after
its first are taken to be spread evenly up to its end, which keeps every total exact and blurs
only what is shorter than a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.plots.binning import centres, edges, span
from traces.plots.style import TimeAxis, theme_named
from traces.records.metrics import finished_requests
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from traces.records.run import Run

#: Fewer bins than for queues: counts in short bins are mostly noise.
BINS = 120

#: Requests are fewer than tokens: so many of these bins are one of theirs.
COARSER = 3


def throughput(
    runs: Run | Sequence[Run], names: Sequence[str] | None = None, *, theme: str = "light"
) -> Figure:
    """Output tokens and finished requests per second, in bins of equal length.

    Raises:
        ValueError: where names are not one for each run, all different; for an unknown theme.
    """
    by_name, style = named(runs, names), theme_named(theme)
    start, end = span(list(by_name.values()))
    bounds, axis = edges(start, end, BINS), TimeAxis.over(start, end)
    figure, axes = style.panels(2, 1, 4.6, sharex=True)
    coarse = bounds[::COARSER]
    handles = []
    for i, run in enumerate(by_name.values()):
        ends = np.sort(finished_requests(run)["finish_ns"].to_numpy(np.float64))
        finished = np.searchsorted(ends, coarse, side="right")
        tokens = tokens_given(run.requests, bounds)
        for ax, amount, at in zip(axes, (tokens, finished), (bounds, coarse), strict=True):
            rate = np.diff(amount) / (at[1] - at[0]) * 1e9
            (handle,) = ax.plot(axis(centres(at)), rate, **style.line(i))
        handles.append(handle)
    for ax, what, at in zip(
        axes, ("Output tokens", "Finished requests"), (bounds, coarse), strict=True
    ):
        ax.set_ylim(bottom=0)
        ax.margins(x=0.01)
        style.title(ax, f"{what}, in bins of {(at[1] - at[0]) / 1e9:,.3g} s")
        style.labels(ax, y="per second")
    style.labels(axes[-1], axis.label)
    style.legend(figure, handles, list(by_name))
    return figure


def tokens_given(requests: pd.DataFrame, times_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Output tokens that these requests had been given by each of the times (ascending, ns)."""
    if "token_times_ns" in requests.columns:
        every = np.sort(np.concatenate([np.zeros(0), *requests["token_times_ns"]]))
        return np.searchsorted(every, times_ns, side="right").astype(np.float64)
    given = requests[requests["first_token_ns"].notna() & requests["finish_ns"].notna()]
    first, finish = (given[name].to_numpy(np.float64) for name in ("first_token_ns", "finish_ns"))
    later = np.maximum(given["output_tokens"].to_numpy(np.float64) - 1, 0)
    length = np.maximum(finish - first, 1.0)
    firsts = np.searchsorted(np.sort(first), times_ns, side="right")
    ramps = _ramps(first, later / length, times_ns) - _ramps(
        first + length, later / length, times_ns
    )
    return firsts + ramps


def _ramps(
    starts: NDArray[np.float64], slopes: NDArray[np.float64], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum over ramps of slope * (time - start), for each time, of the ramps begun by then."""
    order = np.argsort(starts, kind="stable")
    begun = np.searchsorted(starts[order], times, side="right")
    origin = starts.min() if len(starts) else 0.0  # keeps the products small, so exact enough
    slope = np.concatenate([[0.0], np.cumsum(slopes[order])])
    offset = np.concatenate([[0.0], np.cumsum(slopes[order] * (starts[order] - origin))])
    total: NDArray[np.float64] = slope[begun] * (times - origin) - offset[begun]
    return total
