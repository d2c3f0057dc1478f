"""How every plot looks: two themes, with colours, lines, axes and the legend; and the time axis.

`light` is for pages and print, `dark` for slides and dark screens. The hues are Okabe and Ito's,
which colour-blind readers tell apart, made darker or lighter until each line stands out from its
background by 3 to 1 or more (WCAG 2.1, 1.4.11); lines differ in their dashes as well, so that print
in grey can be read. Everything is set on the figure at hand, never globally. Knows no run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import StrMethodFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

DASHES: tuple[str | tuple[float, tuple[float, ...]], ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1)),
    (0, (6, 1.5, 1.5, 1.5)),
)
WIDTH_INCHES = 9.0

#: Which panels share an axis.
Shared = bool | Literal["row", "col"]


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours, and how they are put on a figure.

    Attributes:
        background: behind everything.
        ink: text.
        faint: axes, and lines that stand back.
        grid: the grid.
        colours: of lines, in the order of runs.
        fills: of areas, from what matters most to what matters least; they differ in grey as well.
    """

    background: str
    ink: str
    faint: str
    grid: str
    colours: tuple[str, ...]
    fills: tuple[str, str, str]

    def line(self, i: int) -> dict[str, Any]:
        """The look of line number `i`."""
        return {
            "color": self.colours[i % len(self.colours)],
            "linestyle": DASHES[i % len(DASHES)],
            "linewidth": 1.5,
            "solid_capstyle": "round",
        }

    def panels(
        self,
        rows: int,
        columns: int,
        height_inches: float,
        *,
        sharex: Shared = False,
        sharey: Shared = False,
    ) -> tuple[Figure, list[Axes]]:
        """A figure with as many styled axes, row by row."""
        engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, hspace=0.02, wspace=0.03)
        figure = Figure(
            figsize=(WIDTH_INCHES, height_inches), layout=engine, facecolor=self.background
        )
        grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
        axes: list[Axes] = list(grid.flat)
        for ax in axes:
            ax.set_facecolor(self.background)
            ax.grid(visible=True, color=self.grid, linewidth=0.6)
            ax.set_axisbelow(True)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
            for side in ("left", "bottom"):
                ax.spines[side].set_color(self.faint)
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            ax.tick_params(which="both", labelcolor=self.ink, labelsize=9, color=self.faint)
            ax.tick_params(which="major", length=3)
        return figure, axes

    def title(self, ax: Axes, text: str) -> None:
        """A panel's title, at its left edge."""
        ax.set_title(text, loc="left", fontsize=10, color=self.ink, fontweight="bold")

    def labels(self, ax: Axes, x: str = "", y: str = "") -> None:
        """Axis labels; empty ones are left out."""
        if x:
            ax.set_xlabel(x, fontsize=9, color=self.ink)
        if y:
            ax.set_ylabel(y, fontsize=9, color=self.ink)

    def legend(self, figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
        """One legend for all panels, above them and so never over data."""
        drawn = figure.legend(
            handles,
            names,
            loc="outside upper left",
            ncols=min(len(names), 6),
            frameon=False,
            fontsize=9,
            handlelength=2.6,
            labelcolor=self.ink,
        )
        for patch in drawn.get_patches():  # a fill close to the background is seen by its edge
            patch.set(edgecolor=self.faint, linewidth=0.6)


THEMES = {
    "light": Theme(
        background="#FFFFFF",
        ink="#333333",
        faint="#777777",
        grid="#DDDDDD",
        colours=("#0072B2", "#C95300", "#00845F", "#B4578C", "#9A6A00", "#2B87BF", "#333333"),
        fills=("#0072B2", "#9CCBE8", "#F1F1F1"),
    ),
    "dark": Theme(
        background="#15181C",
        ink="#E4E6E8",
        faint="#8B9299",
        grid="#30353B",
        colours=("#56B4E9", "#F28E4B", "#2FC196", "#E39BC4", "#F0C445", "#9BB8FF", "#D8D8D8"),
        fills=("#56B4E9", "#2B5D7C", "#24282E"),
    ),
}


def theme_named(name: str) -> Theme:
    """The theme of that name.

    Raises:
        ValueError: where there is none; the message lists those there are.
    """
    if name not in THEMES:
        raise ValueError(f"unknown theme {name!r}: known are {', '.join(THEMES)}")
    return THEMES[name]


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
