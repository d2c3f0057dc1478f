"""What each tenant got: its TTFT, its output tokens and its queue, side by side in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.plots.binning import centres, edges, mean_over_time, span
from traces.plots.latency import ecdf, log_scale, share_scale
from traces.plots.output_rate import tokens_given
from traces.plots.style import TimeAxis, theme_named
from traces.records.metrics import finished_requests, times_of
from traces.records.tables import named

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from traces.records.run import Run

BINS = 60
SHOWN = 6
OTHERS, NOBODY = "others", "no tenant"


def by_tenant(
    runs: Run | Sequence[Run], names: Sequence[str] | None = None, *, theme: str = "light"
) -> Figure:
    """A row of panels for each run, a line for each tenant.

    The panels are the distribution of TTFT, output tokens per second, and requests that wait for
    their first batch. Where there are more tenants than can be told apart, those with the fewest
    requests are one line.

    Raises:
        ValueError: where names are not one for each run, all different; for an unknown theme.
    """
    by_name, style = named(runs, names), theme_named(theme)
    start, end = span(list(by_name.values()))
    bounds, axis = edges(start, end, BINS), TimeAxis.over(start, end)
    width_s = (bounds[1] - bounds[0]) / 1e9
    shown = tenant_names(by_name.values())
    figure, axes = style.panels(
        len(by_name), 3, 1.0 + 2.3 * len(by_name), sharex="col", sharey="col"
    )
    handles = []
    for row, (name, run) in enumerate(by_name.items()):
        ttft, rate, queue = axes[3 * row : 3 * row + 3]
        requests = with_tenants(run.requests, shown)
        finished = with_tenants(finished_requests(run), shown)
        for i, tenant in enumerate(shown):
            theirs = requests[requests["tenant"] == tenant]
            done = times_of(finished[finished["tenant"] == tenant])
            (handle,) = ttft.plot(*ecdf(done.ttft / 1e9), **style.line(i))
            given = np.diff(tokens_given(theirs, bounds)) / width_s
            rate.plot(axis(centres(bounds)), given, **style.line(i))
            waiting = mean_over_time(*_waiting(theirs), bounds)
            queue.plot(axis(centres(bounds)), waiting, **style.line(i))
            handles.append(handle)
        for ax, text in ((ttft, "TTFT"), (rate, "output tokens/s"), (queue, "waiting requests")):
            style.title(ax, f"{name}: {text}" if ax is ttft else text)
    # Columns share their axes, so the scales come when everything is drawn.
    for ttft, rate, queue in zip(axes[::3], axes[1::3], axes[2::3], strict=True):
        share_scale(ttft)
        log_scale(ttft)
        style.labels(ttft, y="share of requests (%)")
        for ax in (rate, queue):
            ax.set_ylim(bottom=0)
            ax.margins(x=0.01)
    for ax, text in zip(axes[-3:], ("s, logarithmic", axis.label, axis.label), strict=True):
        style.labels(ax, text)
    style.legend(figure, handles[: len(shown)], shown)
    return figure


def tenant_names(runs: Iterable[Run]) -> list[str]:
    """The tenants of these runs, most requests first, by name among equals; the last the others."""
    count: dict[str, int] = {}
    for run in runs:
        for tenant, requests in run.requests["tenant"].fillna(NOBODY).value_counts().items():
            count[str(tenant)] = count.get(str(tenant), 0) + int(requests)
    ordered = sorted(count, key=lambda tenant: (-count[tenant], tenant))
    return ordered if len(ordered) <= SHOWN + 1 else [*ordered[:SHOWN], OTHERS]


def with_tenants(requests: pd.DataFrame, shown: Sequence[str]) -> pd.DataFrame:
    """The requests, each with the name its tenant is shown under."""
    tenant = requests["tenant"].fillna(NOBODY).astype(str)
    return requests.assign(tenant=tenant.where(tenant.isin(shown), OTHERS))


def _waiting(requests: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """When the number of requests that wait for their first batch changes, and to what."""
    arrival = requests["arrival_ns"].to_numpy(np.int64)
    # who never entered a batch waited until the end, if there was one
    left = requests["first_scheduled_ns"].fillna(requests["finish_ns"]).dropna().to_numpy(np.int64)
    times = np.concatenate([arrival, left])
    change = np.concatenate([np.ones(len(arrival)), -np.ones(len(left))])
    order = np.argsort(times, kind="stable")
    return times[order], np.cumsum(change[order])
