"""When requests arrive: a renewal process whose rate drifts as it did in a trace.

Gaps are drawn at a rate of one and stretched by the trace's requests per minute, over and over, so
short-term burstiness comes from the gaps' shape and slow drift from the minutes. A gap is rounded
to a millionth of the mean before gaps are summed, and the stretching is integer arithmetic, so
arrival times are the same on every platform.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNIT = 1_000_000
_MINUTE_US = 60_000_000
_NS_PER_US = 1_000


@dataclass(frozen=True, slots=True)
class ArrivalProcess:
    """Gamma renewals driven by a rate per minute.

    Attributes:
        shape: of the Gamma distribution of gaps; 1 is a Poisson process, below 1 is burstier.
        minute_counts: requests in each minute of the trace; the last may be a part of one.
        span_s: how long the trace was, seconds; then the minutes begin again.
    """

    shape: float
    minute_counts: tuple[int, ...]
    span_s: float

    @property
    def rate_per_s(self) -> float:
        """Mean rate over the whole trace."""
        return sum(self.minute_counts) / self.span_s

    def times_ns(
        self,
        rng: np.random.Generator,
        *,
        n: int | None,
        duration_s: float | None,
        rate: float | None = None,
    ) -> NDArray[np.int64]:
        """Arrival times, ascending: the first `n`, or those before `duration_s`, or both.

        Args:
            rng: what gaps are drawn from; fewer requests are the first of more.
            n: how many at most.
            duration_s: seconds to fill at most. One of the two must be given.
            rate: requests per second, the same all the time; by default the minutes' own.
        """
        if duration_s is None:
            if n is None:
                raise ValueError("expected n or duration_s")
            return self._drawn(rng, n, rate)
        end_ns = round(duration_s * 1e9)
        # Draw what the time should hold and some more; where that is too few, the same and more.
        state = rng.bit_generator.state
        count = int(duration_s * (self.rate_per_s if rate is None else rate) * 1.2) + 100
        while True:
            rng.bit_generator.state = state
            count = count if n is None else min(count, n)
            times = self._drawn(rng, count, rate)
            if times[-1] >= end_ns or count == n:
                return times[times < end_ns]
            count *= 2

    def _drawn(self, rng: np.random.Generator, count: int, rate: float | None) -> NDArray[np.int64]:
        gaps = np.rint(rng.standard_gamma(self.shape, count) * (_UNIT / self.shape))
        work = np.cumsum(gaps.astype(np.int64))  # time in millionths of the mean gap
        times_us = self._by_minutes(work) if rate is None else np.rint(work / rate)
        times_ns: NDArray[np.int64] = times_us.astype(np.int64) * _NS_PER_US
        return times_ns

    def _by_minutes(self, work: NDArray[np.int64]) -> NDArray[np.int64]:
        """The microsecond at which the minutes' requests have made up for `work`."""
        bounds = np.concatenate(([0], np.cumsum(self.minute_counts, dtype=np.int64))) * _UNIT
        span_us = round(self.span_s * 1e6)
        starts = np.minimum(np.arange(len(self.minute_counts) + 1) * _MINUTE_US, span_us)
        lap, rest = np.divmod(work, bounds[-1])
        minute = np.searchsorted(bounds, rest, side="right") - 1
        within = (rest - bounds[minute]) * np.diff(starts)[minute] // np.diff(bounds)[minute]
        times_us: NDArray[np.int64] = lap * span_us + starts[minute] + within
        return times_us


def check_amounts(n: int | None, duration_s: float | None, rate: float | None) -> None:
    """Refuses amounts that make no workload.

    Raises:
        ValueError: one of them is not a positive number.
    """
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1 request, got {n}")
    for name, value in (("duration_s", duration_s), ("rate", rate)):
        if value is not None and not (isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value}")
