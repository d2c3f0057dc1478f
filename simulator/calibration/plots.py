"""Where a calibration is off: fitted against measured times, and residuals over what drives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simulator.calibration.steps import MODES
from traces.plots.style import theme_named

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from simulator.calibration.fitting import Calibration

DPI = 150
MOST_POINTS = 4_000
#: Residuals beyond this are drawn at the edge, or a few would hide the rest.
EDGE_PERCENT = 50.0


def residual_plot(made: Calibration, *, theme: str = "light") -> Figure:
    """Four panels: fitted over measured; the residual over tokens, over KV read, and over the record.

    Outliers, which the fit left out, are not drawn.

    Raises:
        ValueError: for an unknown theme.
    """
    style = theme_named(theme)
    figure, axes = style.panels(2, 2, 6.4)
    some = np.flatnonzero(made.kept)
    some = some[:: max(1, len(some) // MOST_POINTS)]
    steps, fitted = made.steps[some], made.predicted_ns[some]
    taken = np.maximum(steps.duration_ns, 1)
    off = np.clip(100 * (fitted / taken - 1), -EDGE_PERCENT, EDGE_PERCENT)
    kv = steps.decode_kv_tokens + steps.prefill_tokens + steps.cached_tokens
    panels = (
        ("Fitted and measured", "measured, ms", "fitted, ms", taken / 1e6, fitted / 1e6),
        ("Over tokens of a step", "tokens", "fitted too long by, %", steps.tokens, off),
        ("Over KV read", "KV tokens", "fitted too long by, %", kv, off),
        ("In the order recorded", "step", "fitted too long by, %", some, off),
    )
    handles, names = [], []
    for i, (ax, (title, x_label, y_label, x, y)) in enumerate(zip(axes, panels, strict=True)):
        for kind, mode in enumerate(MODES):
            mine = steps.mode == kind
            if mine.any():
                (points,) = ax.plot(
                    x[mine], y[mine], ".", color=style.colours[kind], markersize=3, alpha=0.6
                )
                if i == 0:
                    handles.append(points)
                    names.append(mode)
        if i == 0:
            ends = [float(np.min(x)), float(np.max(x))]
            ax.plot(ends, ends, color=style.faint, linewidth=0.8)
            ax.set_yscale("log")
        else:
            ax.axhline(0.0, color=style.faint, linewidth=0.8)
        if i < 3:
            ax.set_xscale("log")
        style.title(ax, title)
        style.labels(ax, x_label, y_label)
    style.legend(figure, handles, names)
    return figure


def save_residual_plot(made: Calibration, path: Path) -> None:
    """Write the plot as PNG; the same records give the same file."""
    residual_plot(made).savefig(path, dpi=DPI, metadata={"Software": None})
