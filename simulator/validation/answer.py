"""Does the answer hold? Two policies, each served by the real system and by the simulator.

A simulator is asked which of two policies is better, and by how much. Here the real system has answered:
the mean difference of a latency over the same requests, with a 95 % interval from blocks of consecutive
arrivals. The simulated answer holds where it names the same policy, and agrees in size where its own mean
lies in the real interval, or the real mean in its.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from traces.records.comparison import SHOWN_MS, block_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from traces.real_runs.base import RealRun

NS_PER_MS = 1e6
LATENCIES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Difference:
    """The second policy's mean less the first's, in milliseconds, with its interval if there is one."""

    mean_ms: float
    low_ms: float | None
    high_ms: float | None

    @property
    def sign(self) -> int:
        """-1 where the second is faster, 1 where slower, 0 where neither is shown."""
        if self.low_ms is None or self.high_ms is None:
            return 0
        return -1 if self.high_ms < -SHOWN_MS else int(self.low_ms > SHOWN_MS)

    def holds(self, mean_ms: float) -> bool:
        """Whether a mean lies in the interval."""
        return (
            self.low_ms is not None
            and self.high_ms is not None
            and self.low_ms <= mean_ms <= self.high_ms
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the real system and the simulator say of one latency.

    Attributes:
        metric: `ttft`, `tpot` or `e2e`.
        requests: that all four runs answered.
        real, simulated: the differences.
    """

    metric: str
    requests: int
    real: Difference
    simulated: Difference

    @property
    def verdict(self) -> str:
        """`holds`, `holds, other size`, `does not hold`, or `nothing to hold`.

        The last where the real runs differ by no more than chance.
        """
        if not self.real.sign:
            return "nothing to hold"
        if self.real.sign != self.simulated.sign:
            return "does not hold"
        same = self.real.holds(self.simulated.mean_ms) or self.simulated.holds(self.real.mean_ms)
        return "holds" if same else "holds, other size"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self) | {"verdict": self.verdict}


def answers(real: Sequence[RealRun], simulated: Sequence[RealRun]) -> list[Answer]:
    """Compare the choice between two policies.

    Args:
        real: the same requests served under each.
        simulated: the same.

    Raises:
        ValueError: for other than two runs of each, or no request in common.
    """
    if len(real) != 2 or len(simulated) != 2:
        raise ValueError(
            f"{len(real)} real and {len(simulated)} simulated runs; two of each are needed"
        )
    runs = (*real, *simulated)
    shared = set(runs[0].ids).intersection(*(run.ids for run in runs[1:]))
    if not shared:
        raise ValueError("the runs answered no request of the same id")
    order = [name for name in runs[0].ids if name in shared]
    found = []
    for metric in LATENCIES:
        columns = [_column(run, metric, order) for run in runs]
        known = ~np.isnan(np.stack(columns)).any(axis=0)
        if known.any():
            first, second, made_first, made_second = (column[known] for column in columns)
            found.append(
                Answer(
                    metric,
                    int(known.sum()),
                    _difference(second - first),
                    _difference(made_second - made_first),
                )
            )
    return found


def _column(run: RealRun, metric: str, order: Sequence[str]) -> NDArray[np.float64]:
    places = {name: i for i, name in enumerate(run.ids)}
    found: NDArray[np.float64] = run.latency(metric)[[places[name] for name in order]] / NS_PER_MS
    return found


def _difference(values: NDArray[np.float64]) -> Difference:
    low, high = block_interval(values) or (None, None)
    return Difference(float(values.mean()), low, high)
