"""The main table: what one looks at first, for one run or several side by side.

Chooses which metrics are shown, in which order and with how many digits, and renders the same
lines for a terminal (rich) and a notebook (HTML). Computes nothing: numbers come from `metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

from traces.records.definitions import METRICS
from traces.records.run import Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Group, RenderableType
    from rich.table import Table

    from traces.records.distribution import Distribution
    from traces.records.metrics import Summary

#: The metrics of the main table in sections; a distribution takes a row per statistic.
SECTIONS: tuple[tuple[str, ...], ...] = (
    ("requests_per_s", "output_tokens_per_s"),
    ("ttft_ms",),
    ("tpot_ms",),
    ("itl_ms",),
    ("e2e_ms",),
    ("cache_hit_ratio", "kv_use_mean", "kv_use_max", "retractions"),
    ("finished", "refused", "aborted", "unfinished", "cut"),
)
STATISTICS = ("mean", "p50", "p90", "p99")

#: Shown only where some run has any.
_RARE = frozenset({"aborted", "unfinished"})
_SHARES = frozenset({"cache_hit_ratio", "kv_use_mean", "kv_use_max"})
_COUNTS = frozenset({"retractions", "finished", "refused", "aborted", "unfinished", "cut"})

#: The table's width in a terminal that does not say.
WIDTH = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One metric (or one statistic of one) of every run, as numbers."""

    metric: str
    statistic: str
    values: tuple[float | None, ...]
    ends_section: bool = False

    def cells(self, unit: str) -> list[str]:
        """The values as text; None is a dash."""
        return [format_value(self.metric, value, unit) for value in self.values]


def key_rows(summaries: Sequence[Summary]) -> list[Row]:
    """The rows of the main table, section by section."""
    rows: list[Row] = []
    for section in SECTIONS:
        found = [row for metric in section for row in _rows_of(metric, summaries)]
        if found:
            last = found[-1]
            found[-1] = Row(last.metric, last.statistic, last.values, ends_section=True)
        rows += found
    return rows


def _rows_of(metric: str, summaries: Sequence[Summary]) -> list[Row]:
    values = [getattr(summary, metric) for summary in summaries]
    if metric in _RARE and not any(values):
        return []
    if metric.endswith("_ms"):
        return [
            Row(metric, name, tuple(_statistic(value, name) for value in values))
            for name in STATISTICS
        ]
    return [Row(metric, "", tuple(values))]


def _statistic(value: Distribution | None, name: str) -> float | None:
    return None if value is None else float(getattr(value, name))


def units(rows: Sequence[Row]) -> dict[str, str]:
    """The unit each metric is shown in: seconds for latencies that reach ten of them."""
    chosen: dict[str, str] = {}
    for row in rows:
        if row.metric.endswith("_ms"):
            most = max((value for value in row.values if value is not None), default=0.0)
            seconds = most >= 10_000 or chosen.get(row.metric) == "s"
            chosen[row.metric] = "s" if seconds else "ms"
        else:
            chosen[row.metric] = "%" if row.metric in _SHARES else ""
    return chosen


def format_value(metric: str, value: float | None, unit: str) -> str:
    """A value of a metric in the unit, at three significant digits or all whole ones."""
    if value is None:
        return "-"
    if metric in _COUNTS:
        return f"{value:,.0f}"
    if metric in _SHARES:
        return f"{100 * value:.1f}"
    return digits(value / 1000 if unit == "s" and metric.endswith("_ms") else value)


def digits(value: float) -> str:
    """Three significant digits, or all whole ones where there are more."""
    size = abs(value)
    places = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{value:,.{places}f}"


def label(metric: str, unit: str) -> str:
    """What the metric is called in a table, with the unit shown where there is one."""
    return f"{METRICS[metric].label} ({unit})" if unit else METRICS[metric].label


def named(runs: Run | Sequence[Run], names: Sequence[str] | None) -> dict[str, Run]:
    """The runs by the names they are shown under: those given, or their own made different.

    Raises:
        ValueError: where there is no run, not a name for each, or a name twice.
    """
    several = [runs] if isinstance(runs, Run) else list(runs)
    if not several:
        raise ValueError("no run given: give one or more")
    if names is None:
        own: list[str] = []
        for run in several:
            same = sum(run.name == other.name for other in several[: len(own)])
            own.append(f"{run.name} ({same + 1})" if same else run.name)
        names = own
    if len(names) != len(several) or len(set(names)) != len(names):
        raise ValueError(
            f"{len(several)} runs need as many different names; given: {', '.join(names)}"
        )
    return dict(zip(names, several, strict=True))


def summary_table(runs: Run | Sequence[Run], names: Sequence[str] | None = None) -> Group:
    """The main table of one run or several, with what to know about it below, for a rich console.

    Raises:
        ValueError: where names are not one for each run, all different.
    """
    from rich.console import Group
    from rich.text import Text

    by_name = named(runs, names)
    rows = key_rows([run.summary() for run in by_name.values()])
    unit_of = units(rows)
    lines = [(row, row.cells(unit_of[row.metric])) for row in rows]
    notes = (Text(note, style="dim") for note in notes_on(by_name))
    return Group(rich_table(list(by_name), lines, unit_of), *notes)


def rich_table(
    names: Sequence[str],
    lines: Sequence[tuple[Row, Sequence[str]]],
    unit_of: dict[str, str],
) -> Table:
    """Lines of cells under the runs' names, with the metric's name once per metric."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("", style="dim", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    shown = ""
    for row, cells in lines:
        heading = "" if row.metric == shown else label(row.metric, unit_of[row.metric])
        shown = row.metric
        table.add_row(heading, row.statistic, *cells, end_section=row.ends_section)
    return table


def notes_on(runs: Mapping[str, Run]) -> list[str]:
    """What a reader has to know before believing a number; what is so of all runs is said once."""
    of_run = {name: _notes(run) for name, run in runs.items()}
    first, *others = of_run.values()
    shared = [note for note in first if all(note in other for other in others)]
    own = [f"{name}: {note}" for name, of in of_run.items() for note in of if note not in shared]
    everywhere = "all: " if others else f"{next(iter(of_run))}: "
    return [*own, *(everywhere + note for note in shared)]


def _notes(run: Run) -> list[str]:
    notes = []
    if run.status != "complete":
        notes.append(f"{run.status}; the numbers are of what was recorded until then")
    if not run.manifest.get("itl", {}).get("exact", True):
        notes.append("ITL percentiles are to a relative 1e-3")
    refused = run.requests[run.requests["finish_reason"] == "refused"]
    if len(refused):
        first = refused.sort_values("arrival_ns", kind="stable").iloc[0]
        notes.append(f"refused, the first: {first['id']}: {first['reason']}")
    steps = run.manifest.get("counts", {}).get("steps", 0)
    for what, count in run.manifest.get("flags", {}).items():
        notes.append(f"not measured: {what} in {count:,} of {steps:,} steps")
    return [*notes, *run.manifest.get("approximations", ())]


def summary_html(runs: Run | Sequence[Run], names: Sequence[str] | None = None) -> str:
    """The main table as HTML, for a notebook."""
    by_name = named(runs, names)
    rows = key_rows([run.summary() for run in by_name.values()])
    unit_of = units(rows)
    lines = [(row, row.cells(unit_of[row.metric])) for row in rows]
    return html_table(list(by_name), lines, unit_of, notes_on(by_name))


def html_table(
    names: Sequence[str],
    lines: Sequence[tuple[Row, Sequence[str]]],
    unit_of: dict[str, str],
    notes: Sequence[str] = (),
) -> str:
    """Lines of cells under the runs' names, as an HTML table that takes the page's style."""
    left, right = 'style="text-align:left"', 'style="text-align:right"'
    head = "".join(f"<th {right}>{escape(name)}</th>" for name in names)
    body, shown = [], ""
    for row, cells in lines:
        heading = "" if row.metric == shown else label(row.metric, unit_of[row.metric])
        shown = row.metric
        values = "".join(f"<td {right}>{escape(cell)}</td>" for cell in cells)
        body.append(
            f"<tr><th {left}>{escape(heading)}</th><td {left}>{row.statistic}</td>{values}</tr>"
        )
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f"<table><thead><tr><th></th><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>{below}"
    )


def to_text(renderable: RenderableType, width: int = WIDTH) -> str:
    """A rich table as plain text, without colour."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=width, color_system=None, highlight=False).print(renderable)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")
