"""How every plot looks: colours, lines, axes and the legend, and the time axis.

Colours are Okabe and Ito's, which colour-blind readers tell apart; lines differ in their dashes
as well, so that print in grey can be read. Everything is set on the figure at hand. Knows no run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import StrMethodFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
DASHES: tuple[str | tuple[float, tuple[float, ...]], ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1)),
    (0, (6, 1.5, 1.5, 1.5)),
)
INK, FAINT, GRID = "#333333", "#777777", "#DDDDDD"
WIDTH_INCHES = 9.0


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Time since the first arrival, in the unit that suits its length."""

    origin_ns: int
    unit: str
    unit_ns: float

    @classmethod
    def over(cls, origin_ns: int, end_ns: int) -> TimeAxis:
        """The axis for a run from its first arrival to its end."""
        span_s = (end_ns - origin_ns) / 1e9
        unit, seconds = (
            ("s", 1) if span_s <= 600 else ("min", 60) if span_s <= 7200 else ("h", 3600)
        )
        return cls(origin_ns, unit, seconds * 1e9)

    def __call__(self, time_ns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Times as the axis shows them."""
        return (time_ns - self.origin_ns) / self.unit_ns

    @property
    def label(self) -> str:
        """The axis label."""
        return f"time since first arrival ({self.unit})"


def line(i: int) -> dict[str, Any]:
    """The look of run number `i`'s line."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": DASHES[i % len(DASHES)],
        "linewidth": 1.5,
        "solid_capstyle": "round",
    }


def panels(
    rows: int, columns: int, height_inches: float, *, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with as many styled axes, row by row."""
    engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, hspace=0.02, wspace=0.03)
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout=engine)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    axes: list[Axes] = list(grid.flat)
    for ax in axes:
        ax.grid(visible=True, color=GRID, linewidth=0.6)
        ax.set_axisbelow(True)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            ax.spines[side].set_color(FAINT)
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        ax.tick_params(colors=INK, labelsize=9, length=3, color=FAINT)
    return figure, axes


def title(ax: Axes, text: str) -> None:
    """A panel's title, at its left edge."""
    ax.set_title(text, loc="left", fontsize=10, color=INK, fontweight="bold")


def labels(ax: Axes, x: str = "", y: str = "") -> None:
    """Axis labels; empty ones are left out."""
    if x:
        ax.set_xlabel(x, fontsize=9, color=INK)
    if y:
        ax.set_ylabel(y, fontsize=9, color=INK)


def legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """One legend for all panels, above them and so never over data."""
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=min(len(names), 6),
        frameon=False,
        fontsize=9,
        handlelength=2.6,
        labelcolor=INK,
    )
