"""How fast output tokens come out, over time.

Where token times were recorded they are counted. Where they were not, a request's tokens after
its first are taken to be spread evenly up to its end, which keeps every total exact and blurs
only what is shorter than a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.plots import style
from traces.plots.binning import centres, edges, span
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from traces.records.run import Run

#: Fewer bins than for queues: counts in short bins are mostly noise.
BINS = 120


def throughput(runs: Run | Sequence[Run], names: Sequence[str] | None = None) -> Figure:
    """Output tokens per second in bins of equal length.

    Raises:
        ValueError: where names are not one for each run, all different.
    """
    by_name = named(runs, names)
    start, end = span(list(by_name.values()))
    bounds, axis = edges(start, end, BINS), style.TimeAxis.over(start, end)
    figure, (ax,) = style.panels(1, 1, 3.2)
    width_s = (bounds[1] - bounds[0]) / 1e9
    handles = []
    for i, run in enumerate(by_name.values()):
        rate = np.diff(tokens_until(run, bounds)) / width_s
        (handle,) = ax.plot(axis(centres(bounds)), rate, **style.line(i))
        handles.append(handle)
    ax.set_ylim(bottom=0)
    ax.margins(x=0.01)
    style.title(ax, f"Throughput, in bins of {width_s:,.3g} s")
    style.labels(ax, axis.label, "output tokens/s")
    style.legend(figure, handles, list(by_name))
    return figure


def tokens_until(run: Run, times_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Output tokens that the run had given by each of these times (ascending, nanoseconds)."""
    requests = run.requests
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
