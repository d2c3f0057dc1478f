"""Runs side by side: every key metric with its difference, and what the differences are worth.

Where two runs served the same requests, the mean difference of TTFT, TPOT and end-to-end latency
gets a 95 % confidence interval from a paired bootstrap. Requests of a run are not independent: a
burst delays a whole stretch of them. So what is resampled are not requests but blocks of
consecutive arrivals, long against a burst; with each block the pairs in it. The interval speaks
of other stretches of the same workload; it does not know other workloads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import fsum, isqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from traces.records.definitions import METRICS
from traces.records.metrics import Summary, finished_requests, times_of
from traces.records.tables import (
    Row,
    digits,
    html_table,
    key_rows,
    named,
    notes_on,
    rich_table,
    to_text,
    units,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.console import Group, RenderableType

    from traces.records.run import Run

CONFIDENCE = 0.95
RESAMPLES = 4_999
MOST_BLOCKS = 60
#: Below these many blocks an interval would promise more than it keeps.
FEWEST_BLOCKS = 8
SEED = 0

#: The latencies that are compared request by request; for each of them lower is better.
PAIRED = ("ttft_ms", "tpot_ms", "e2e_ms")


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean difference of a latency over the requests that both runs finished.

    Attributes:
        metric: `ttft_ms`, `tpot_ms` or `e2e_ms`.
        run: the run compared with the first.
        requests: pairs the mean is over.
        mean_ms: mean of (this run - first run).
        low_ms, high_ms: the 95 % confidence interval; None where there are too few requests.
        verdict: `better`, `worse`, `no difference shown`, or `too few requests`.
    """

    metric: str
    run: str
    requests: int
    mean_ms: float
    low_ms: float | None
    high_ms: float | None
    verdict: str


@dataclass(frozen=True, repr=False)
class Comparison:
    """Several runs, compared with the first of them.

    Attributes:
        names: what the runs are called, the first being the baseline.
        summaries: their metrics, in the same order.
        rows: the key metrics; `relative` gives a row's differences.
        paired: request-by-request differences to the first run.
        unpaired: runs that did not serve the first one's requests, so have no intervals.
        notes: what to know of the runs before believing a number.
    """

    names: tuple[str, ...]
    summaries: tuple[Summary, ...]
    rows: tuple[Row, ...]
    paired: tuple[PairedDifference, ...]
    unpaired: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> Group:
        """Both tables, for a rich console."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        unit_of = units(self.rows)
        parts: list[RenderableType] = [rich_table(self.names, self._lines(unit_of), unit_of)]
        if self.paired:
            title = f"Mean difference to {self.names[0]}, request by request (95 % interval)"
            parts.append(Text(title, style="italic"))
            box = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
            for heading in ("", "run", "difference", "", "requests"):
                box.add_column(heading, no_wrap=heading != "run")
            colours = {"better": "green", "worse": "red"}
            for pair in self.paired:
                verdict = Text(pair.verdict, style=colours.get(pair.verdict, "dim"))
                name = METRICS[pair.metric].label
                box.add_row(
                    name, pair.run, _interval(pair, self.paired), verdict, f"{pair.requests:,}"
                )
            parts.append(box)
        parts += [Text(note, style="dim") for note in self._notes()]
        return Group(*parts)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and mappings, for JSON."""
        return {
            "runs": [
                {"name": name, "summary": summary.to_dict()}
                for name, summary in zip(self.names, self.summaries, strict=True)
            ],
            "differences": [
                {
                    "metric": row.metric,
                    "statistic": row.statistic or None,
                    "values": list(row.values),
                    "relative": relative(row),
                }
                for row in self.rows
            ],
            "paired": [asdict(pair) for pair in self.paired],
            "unpaired": list(self.unpaired),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return to_text(self.table())

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(self.names)}>"

    def _repr_html_(self) -> str:
        unit_of = units(self.rows)
        notes = [
            f"{METRICS[pair.metric].label}, {pair.run} against {self.names[0]}: "
            f"{_interval(pair, self.paired)}, {pair.verdict} ({pair.requests:,} requests)"
            for pair in self.paired
        ]
        return html_table(self.names, self._lines(unit_of), unit_of, notes + self._notes())

    def _lines(self, unit_of: dict[str, str]) -> list[tuple[Row, list[str]]]:
        lines = []
        for row in self.rows:
            cells = row.cells(unit_of[row.metric])
            nothing = not cells[0].strip("0.")  # a share of what is shown as zero says nothing
            for i, change in enumerate(relative(row)):
                if i and change is not None and not nothing:
                    cells[i] += f"  {_percent(change):>8}"
                elif i:
                    cells[i] += " " * 10
            lines.append((row, cells))
        return lines

    def _notes(self) -> list[str]:
        unpaired = [
            f"{name} did not serve the same requests as {self.names[0]}: no intervals"
            for name in self.unpaired
        ]
        return [*unpaired, *self.notes]


def compare(runs: Sequence[Run], names: Sequence[str] | None = None) -> Comparison:
    """Lay runs side by side, each against the first.

    Raises:
        ValueError: where there is no run, or names are not one for each, all different.
    """
    by_name = named(runs, names)
    summaries = tuple(run.summary() for run in by_name.values())
    (_, first), *others = by_name.items()
    paired: list[PairedDifference] = []
    unpaired: list[str] = []
    for name, run in others:
        if same_requests(first, run):
            paired += paired_differences(first, run, name)
        else:
            unpaired.append(name)
    rows = tuple(key_rows(summaries))
    notes = tuple(notes_on(by_name))
    return Comparison(tuple(by_name), summaries, rows, tuple(paired), tuple(unpaired), notes)


def relative(row: Row) -> list[float | None]:
    """Each value's difference to the first, as a share of it; None where that means nothing."""
    base, *_ = row.values
    return [None if not base or value is None else value / base - 1 for value in row.values]


def same_requests(a: Run, b: Run) -> bool:
    """Whether both runs were given the same requests: same names, prompt lengths and limits.

    Arrivals may differ: those of closed-loop clients depend on how they were served.
    """
    columns = ["id", "prompt_tokens", "requested_max_new_tokens"]
    left, right = (
        run.requests[columns].sort_values("id", ignore_index=True, kind="stable") for run in (a, b)
    )
    return left.equals(right)


def paired_differences(first: Run, other: Run, name: str) -> list[PairedDifference]:
    """The mean difference of each latency with its interval, over what both runs finished."""
    left, right = (finished_requests(run).set_index("id") for run in (first, other))
    left = left.sort_values("arrival_ns", kind="stable")
    left = left[left.index.isin(right.index)]
    right = right.loc[left.index]
    before, after = times_of(left), times_of(right)
    found = []
    for metric in PAIRED:
        latency = metric.removesuffix("_ms")
        change = (getattr(after, latency) - getattr(before, latency)) / 1e6
        change = change[~np.isnan(change)]
        if len(change):
            found.append(_paired(metric, name, change))
    return found


SHOWN_MS = 0.005
"""Differences below what is printed, two decimals of a millisecond, are none."""


def _paired(metric: str, name: str, change_ms: NDArray[np.float64]) -> PairedDifference:
    interval = block_interval(change_ms)
    low, high = interval or (None, None)
    if low is None or high is None:
        verdict = "too few requests"
    elif high < -SHOWN_MS:
        verdict = "better"
    else:
        verdict = "worse" if low > SHOWN_MS else "no difference shown"
    return PairedDifference(
        metric, name, len(change_ms), fsum(change_ms) / len(change_ms), low, high, verdict
    )


def block_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """A 95 % confidence interval of the mean of values in order of time, by blocks of them.

    About sqrt(n) blocks of consecutive values, at most `MOST_BLOCKS`, resampled `RESAMPLES` times
    with a fixed seed (`scipy.stats.bootstrap`, bias-corrected and accelerated). None where there
    are fewer than `FEWEST_BLOCKS` blocks.
    """
    blocks = min(MOST_BLOCKS, isqrt(len(values)))
    if blocks < FEWEST_BLOCKS:
        return None
    edges = np.linspace(0, len(values), blocks + 1).astype(np.int64)[:-1]
    sums = np.add.reduceat(values, edges)
    sizes = np.diff(np.append(edges, len(values))).astype(np.float64)
    means = sums / sizes
    if np.ptp(means) <= 1e-12 * np.abs(means).max():  # nothing to resample: every block agrees
        return float(means[0]), float(means[0])
    from scipy.stats import bootstrap

    def mean(sums: NDArray[Any], sizes: NDArray[Any], axis: int = -1) -> NDArray[Any]:
        ratio: NDArray[Any] = sums.sum(axis=axis) / sizes.sum(axis=axis)
        return ratio

    result = bootstrap(
        (sums, sizes),
        mean,
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _interval(pair: PairedDifference, pairs: Sequence[PairedDifference]) -> str:
    """The difference with its interval, in the unit that suits all runs' for this metric."""
    most = max(abs(other.mean_ms) for other in pairs if other.metric == pair.metric)
    unit, scale = ("s", 1000.0) if most >= 10_000 else ("ms", 1.0)
    text = f"{_signed(pair.mean_ms / scale)} {unit}"
    if pair.low_ms is None or pair.high_ms is None:
        return text
    return f"{text} [{_signed(pair.low_ms / scale)}, {_signed(pair.high_ms / scale)}]"


def _signed(value: float) -> str:
    shown = digits(value)
    if not shown.strip("-0.,"):
        return shown.removeprefix("-")
    return ("+" if value > 0 else "") + shown


def _percent(change: float) -> str:
    return f"{100 * change:+,.1f} %" if round(100 * change, 1) else "0.0 %"
