"""What a real system differs from itself: several runs of the same requests.

An error of the simulator means little where two runs of the real system differ by as much. Of each
statistic this tells the real runs' own range, and whether the simulated value lies in it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from simulator.validation.engine import OWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.validation.figures import Figures
    from traces.real_runs.base import RealRun

SHOWN = 5
# settings of an engine that repeats share; KV capacity, which engines measure, may vary
SERVED_WITH = (
    *OWN,
    "max_running_requests",
    "max_batched_tokens",
    "page_size",
    "prefix_caching",
    "overlapped",
    "order",
)


@dataclass(frozen=True, slots=True)
class Spread:
    """A statistic over repeated real runs, beside the simulated value.

    Attributes:
        metric, statistic: as in `Figure`.
        lowest, highest, mean: of the real runs.
        simulated: the mean over simulations of each.
    """

    metric: str
    statistic: str
    lowest: float
    highest: float
    mean: float
    simulated: float

    @property
    def spread(self) -> float:
        """Half the real runs' range, as a share of their mean; NaN where that is 0."""
        return (self.highest - self.lowest) / 2 / self.mean if self.mean else float("nan")

    @property
    def error(self) -> float:
        """The simulated value's difference to the real mean, as a share of it."""
        return self.simulated / self.mean - 1 if self.mean else float("nan")

    @property
    def within(self) -> bool:
        """Whether the simulated value lies in the real runs' range."""
        return self.lowest <= self.simulated <= self.highest

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self) | {"spread": self.spread, "error": self.error, "within": self.within}


def spreads(pairs: Sequence[Figures]) -> list[Spread]:
    """Of each statistic, over the comparisons of repeated real runs with their simulations.

    Raises:
        ValueError: for fewer than two.
    """
    if len(pairs) < 2:
        raise ValueError(
            f"{len(pairs)} real run has no spread; give two or more of the same requests"
        )
    found = []
    for first in pairs[0].rows:
        try:
            rows = [pair.of(first.metric, first.statistic) for pair in pairs]
        except KeyError:
            continue
        real = [row.real for row in rows]
        made = [row.simulated for row in rows]
        mean, simulated = sum(real) / len(real), sum(made) / len(made)
        found.append(Spread(first.metric, first.statistic, min(real), max(real), mean, simulated))
    return found


def check_repeats(runs: Sequence[RealRun]) -> list[str]:
    """See that runs are repeats of one another.

    Returns:
        what to tell of them.

    Raises:
        ValueError: where a run is given twice, was served otherwise, or did not answer the same requests;
            says which and how.
    """
    notes = []
    for i, run in enumerate(runs):
        for other in runs[:i]:
            if is_same_run(run, other):
                raise ValueError(f"{run.path} is given twice: a run is no repeat of itself")
            if run.requests == other.requests:
                notes.append(
                    f"{run.path} has the times of {other.path}, to the nanosecond: a copy, or simulated"
                )
        differs = _served_otherwise(runs[0], run)
        if differs:
            raise ValueError(
                f"{run.path} is no repeat of {runs[0].path}: {differs}; a run under another policy is "
                "named with --other"
            )
        check_same_requests(runs[0], run, "no repeat of")
        missing = only_in(runs[0], run)
        if missing:
            raise ValueError(
                f"{run.path} is no repeat of {runs[0].path}: it did not answer {missing}; give runs "
                "that answered all requests"
            )
    return notes


def is_same_run(one: RealRun, other: RealRun) -> bool:
    """Whether two runs were read from one place."""
    return one.source == other.source and one.path.resolve() == other.path.resolve()


def _served_otherwise(one: RealRun, other: RealRun) -> str:
    """What two runs were served with that differs, in words; empty where nothing is known to."""
    if one.engine is not None and other.engine is not None:
        for name in SERVED_WITH:
            here, there = getattr(one.engine, name), getattr(other.engine, name)
            if here != there and None not in (here, there):  # None is not known
                return f"its {name} is {there!r}, there {here!r}"
    if one.run is not None and other.run is not None:
        first, second = (
            r.manifest.get("config", {}).get("policy", {}) for r in (one.run, other.run)
        )
        for name in sorted({*first, *second}):
            if first.get(name) != second.get(name):
                return f"its policy.{name} is {second.get(name)!r}, there {first.get(name)!r}"
    return ""


def check_same_requests(one: RealRun, other: RealRun, what: str) -> None:
    """See that a run answered no other requests than another.

    Args:
        one: a run.
        other: which is to have answered those, or some of them.
        what: it is not, for the error.

    Raises:
        ValueError: says which request differs, and how.
    """
    known = {request.id: request for request in one.requests}
    for request in other.requests:
        same = known.get(request.id)
        if same is None or same.prompt_tokens != request.prompt_tokens:
            raise ValueError(
                f"{other.path} is {what} {one.path}: request {request.id!r} has "
                f"{request.prompt_tokens} prompt tokens, there "
                f"{'it is not' if same is None else same.prompt_tokens}"
            )


def only_in(one: RealRun, other: RealRun) -> str:
    """The requests that a run answered and another did not, in words; empty where there are none."""
    names = set(one.ids) - set(other.ids)
    if not names:
        return ""
    some = ", ".join(sorted(names)[:SHOWN])
    more = "" if len(names) <= SHOWN else f" and {len(names) - SHOWN:,} more"
    return f"{len(names):,} requests: {some}{more}" if len(names) > 1 else f"request {some}"
