"""A validation in pictures: latencies of both as distributions, and what happened over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulator.validation.figures import LABELS, NS_PER_MS
from traces.plots.latency import ecdf, log_scale, share_scale
from traces.plots.save import save_figure
from traces.plots.style import theme_named

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from simulator.validation.budget import Budget
    from simulator.validation.compare import Compared
    from simulator.validation.validate import Validation

NAMES = ("real", "simulated")
PER_SERIES_INCHES = 1.6


def save_validation_plots(made: Validation, folder: Path, *, theme: str = "light") -> list[Path]:
    """Write the pictures of a validation, and return their files.

    Raises:
        ValueError: for an unknown theme.
    """
    first = made.repeats[0]
    pictures = {
        "latencies": latencies(first, theme=theme),
        "requests": requests(first, theme=theme),
    }
    if first.series:
        pictures["over_time"] = over_time(first, theme=theme)
    if made.budget is not None:
        pictures["budget"] = causes(made.budget, theme=theme)
    files = []
    for name, figure in pictures.items():
        files.append(folder / f"{name}.png")
        save_figure(figure, files[-1])
    return files


def latencies(pair: Compared, *, theme: str = "light") -> Figure:
    """The share of requests that were served at least as fast, of each latency that is known."""
    style = theme_named(theme)
    known = [name for name in LABELS if name not in pair.figures.unknown]
    figure, axes = style.panels(1, len(known), 3.4, sharey=True)
    handles = []
    for i, run in enumerate((pair.real, pair.simulated.run)):
        for ax, name in zip(axes, known, strict=True):
            (handle,) = ax.plot(*ecdf(run.latency(name) / NS_PER_MS), **style.line(i))
        handles.append(handle)
    for ax, name in zip(axes, known, strict=True):
        share_scale(ax)
        log_scale(ax)
        style.title(ax, LABELS[name])
        style.labels(ax, "ms, logarithmic")
    style.labels(axes[0], y="share of requests (%)")
    style.legend(figure, handles, NAMES)
    return figure


def requests(pair: Compared, *, theme: str = "light") -> Figure:
    """Each request's latency, simulated over real, in the order of arrival."""
    style = theme_named(theme)
    known = [name for name in ("ttft", "tpot", "e2e") if name not in pair.figures.unknown]
    figure, axes = style.panels(1, len(known), 3.2)
    places = {name: i for i, name in enumerate(pair.simulated.run.ids)}
    shared = [(i, places[name]) for i, name in enumerate(pair.real.ids) if name in places]
    left, right = ([one[k] for one in shared] for k in (0, 1))
    for ax, name in zip(axes, known, strict=True):
        real, made = pair.real.latency(name)[left], pair.simulated.run.latency(name)[right]
        with np.errstate(divide="ignore", invalid="ignore"):
            off = 100 * (made / real - 1)
        ax.plot(off, linestyle="", marker=".", markersize=3, color=style.colours[0])
        ax.axhline(0, color=style.faint, linewidth=0.8)
        style.title(ax, f"{LABELS[name]}: simulated against real")
        style.labels(ax, "request, by arrival")
    style.labels(axes[0], y="error (%)")
    return figure


def over_time(pair: Compared, *, theme: str = "light") -> Figure:
    """Everything that both tell over time."""
    style = theme_named(theme)
    figure, axes = style.panels(
        len(pair.series), 1, 0.8 + PER_SERIES_INCHES * len(pair.series), sharex=True
    )
    handles = []
    for i, which in enumerate(NAMES):
        for ax, one in zip(axes, pair.series, strict=True):
            (handle,) = ax.plot(one.time_s, getattr(one, which), **style.line(i))
        handles.append(handle)
    for ax, one in zip(axes, pair.series, strict=True):
        ax.set_ylim(bottom=0)
        ax.margins(x=0.01)
        watched = "as the engine saw it" if one.watched else "from the requests' times"
        style.title(ax, f"{one.name}, {watched}")
        style.labels(ax, y=one.unit)
    style.labels(axes[-1], "time since first arrival (s)")
    style.legend(figure, handles, NAMES)
    return figure


def causes(found: Budget, *, theme: str = "light") -> Figure:
    """The error of each latency's mean as it is, and with each measured part put in."""
    style = theme_named(theme)
    known = [part for part in found.parts if part.known]
    names = ["as simulated", *(part.name for part in known)]
    figure, axes = style.panels(1, max(len(found.base), 1), 0.9 + 0.35 * len(names), sharey=True)
    for ax, latency in zip(axes, found.base, strict=False):
        errors = [found.base[latency], *(part.errors.get(latency, np.nan) for part in known)]
        places = range(len(names))
        ax.barh(places, [100 * error for error in errors], color=style.colours[0], height=0.6)
        ax.set_yticks(places, names)
        ax.axvline(0, color=style.faint, linewidth=0.8)
        ax.locator_params(axis="x", nbins=4)  # figures of small errors are long
        style.title(ax, f"mean {LABELS[latency]}")
        style.labels(ax, "error (%)")
    axes[0].invert_yaxis()
    return figure
