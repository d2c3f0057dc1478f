"""Workloads held against each other: lengths, arrivals, sessions, and what caches would save.

Made from what requests are, before any run; the plots beside this one are made from records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter

from traces.plots.latency import ecdf, log_scale, share_scale
from traces.plots.style import theme_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from traces.inspect import Measured

#: Sizes at which a curve of hit ratios is drawn.
SIZES = 200
_PANELS = (
    ("inputs", "Prompt length", "tokens, logarithmic"),
    ("outputs", "Answer length", "tokens, logarithmic"),
    ("gaps_s", "Time between arrivals", "s, logarithmic"),
)
_SESSION_PANELS = (
    ("session_requests", "Requests of a session", "logarithmic"),
    ("waits_s", "Wait after an answer", "s, logarithmic"),
)


def workload_likeness(
    workloads: Sequence[Measured], names: Sequence[str] | None = None, *, theme: str = "light"
) -> Figure:
    """Distributions of lengths and gaps, and the hit ratio of LRU caches by their size.

    Where every workload has sessions whose requests wait, two panels show these.

    Args:
        workloads: at least one, each a line of every panel.
        names: what to call them; by default as they are called themselves.
        theme: `light` or `dark`.

    Raises:
        ValueError: where there is no workload, names are not one for each, or the theme is unknown.
    """
    called = [one.name for one in workloads] if names is None else list(names)
    if not workloads or len(called) != len(workloads):
        raise ValueError(
            f"expected a name for each workload, got {len(called)} for {len(workloads)}"
        )
    style = theme_named(theme)
    waits = all(len(one.waits_s) for one in workloads)
    panels = _PANELS + (_SESSION_PANELS if waits else ())
    figure, axes = style.panels(3 if waits else 2, 2, 9.0 if waits else 6.2)
    handles = []
    for i, one in enumerate(workloads):
        for ax, (samples, _, _) in zip(axes, panels, strict=False):
            drawn = ax.plot(*ecdf(getattr(one, samples).astype(np.float64)), **style.line(i))
        drawn = axes[-1].plot(*_hit_curve(one), **style.line(i))
        handles += drawn
    for ax, (_, title, unit) in zip(axes, panels, strict=False):
        share_scale(ax)
        log_scale(ax)
        if unit.startswith("tokens"):
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tokens(value)))
        style.title(ax, title)
        style.labels(ax, unit, "share (%)")
    _cache_panel(axes[-1])
    style.title(axes[-1], "Prompt tokens an LRU cache would find")
    style.labels(axes[-1], "cache size in tokens, logarithmic", "share (%)")
    style.legend(figure, handles, called)
    return figure


def _hit_curve(one: Measured) -> tuple[list[float], list[float]]:
    """Cache sizes in tokens up to one that evicts nothing, and hit ratios in percent."""
    most = max(len(one.reuse.uses), 2)
    sizes = np.unique(np.geomspace(1, most, SIZES).astype(np.int64)).tolist()
    tokens = [float(size * one.reuse.block_size) for size in sizes]
    return tokens, [100 * one.reuse.hit_ratio(size) for size in sizes]


def _cache_panel(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tokens(value)))
    ax.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _tokens(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
