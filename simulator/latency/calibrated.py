"""Calibrated: device time of a step as fitted to recorded steps of a run.

A step costs something to launch, more with prefill rows; its tokens read the weights and are computed;
decode rows read their KV; prefill rows attend to what is there and to each other; rows and samples have
a price each. Every part is a curve or a line that never falls, so more work never takes less time, and
beyond what was measured each goes on by the slope of its physical form. `simulator.calibration` fits it.

It does not know which rows have long KV and which short, only their sum, nor that parts may overlap.
Steps beyond the measured ranges are answered and counted in `flags`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from simulator.latency.base import LatencyModel, StepShape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from simulator.calibration.profile import CalibratedProfile, Curve


class _Line:
    """A curve that is quick to ask: `ns + slope * (x - knot)` on the segment that x is in."""

    __slots__ = ("knots", "ns", "slopes")

    def __init__(self, curve: Curve) -> None:
        knots, values = curve.knots, curve.ns
        self.knots = list(knots)
        self.slopes = [
            (values[i + 1] - values[i]) / (knots[i + 1] - knots[i]) for i in range(len(knots) - 1)
        ]
        self.slopes.append(curve.slope_ns)
        # values as the segments reach them, so that rounding never makes the next begin lower
        self.ns = [0.0]
        for i in range(len(knots) - 1):
            self.ns.append(self.ns[i] + self.slopes[i] * (knots[i + 1] - knots[i]))

    def at(self, x: int) -> float:
        """At one place, 0 or more."""
        i = bisect_right(self.knots, x) - 1
        return self.ns[i] + self.slopes[i] * (x - self.knots[i])

    def over(self, first: int, step: int, count: int) -> NDArray[np.float64]:
        """At `first`, `first + step` and so on: float64, shape (count,), as `at` for each."""
        last = first + step * (count - 1)
        x = np.arange(first, last + step, step, dtype=np.float64)
        low = bisect_right(self.knots, first) - 1
        high = bisect_right(self.knots, last) - 1
        begin = 0
        for i in range(low, high + 1):
            end = count
            if i < high:  # those before the next knot
                end = ceil((self.knots[i + 1] - first) / step)
            part = x[begin:end]
            part -= self.knots[i]
            part *= self.slopes[i]
            part += self.ns[i]
            begin = end
        return x


class CalibratedLatency(LatencyModel):
    """Device time from a calibrated profile.

    Args:
        profile: fitted to recorded steps.

    Attributes:
        profile: as given.
    """

    def __init__(self, profile: CalibratedProfile) -> None:
        self.profile = profile
        cost = profile.latency
        self._fixed = cost.fixed_ns
        self._prefill_fixed = cost.prefill_fixed_ns
        self._tokens = _Line(cost.tokens)
        self._kv = _Line(cost.decode_kv_tokens)
        self._pairs = _Line(cost.prefill_pairs)
        self._cached = cost.cached_token_ns
        self._decode_row = cost.decode_request_ns
        self._prefill_row = cost.prefill_request_ns
        self._sampled = cost.sampled_ns
        self._ranges = profile.ranges
        self._kv_least, self._kv_most = profile.ranges["decode_kv_tokens"]
        self._modes = frozenset(profile.modes)
        self._beyond: Counter[str] = Counter()
        self._rows: dict[int, tuple[float, tuple[str, ...]]] = {}  # of decode steps, by requests

    def step_ns(self, shape: StepShape) -> int:
        """See `LatencyModel.step_ns`."""
        prefill, requests, kv_tokens, sampled, _ = shape
        if prefill:
            return self._with_prefill(shape)
        if not requests:
            return 0
        if sampled == requests:
            rows, beyond = self._decode_rows(requests)
        else:
            rows, beyond = self._rows_ns(requests, requests, sampled), self._decode_beyond(requests)
        if beyond:
            self._beyond.update(beyond)
        if not self._kv_least <= kv_tokens <= self._kv_most:
            self._beyond["decode_kv_tokens"] += 1
        return round(rows + self._kv.at(kv_tokens))

    def decode_steps_ns(
        self,
        requests: int,
        kv_tokens: int,
        steps: int,
        kv_lens: Callable[[], NDArray[np.int64]],  # noqa: ARG002 - their sum is all it knows
    ) -> NDArray[np.int64]:
        """See `LatencyModel.decode_steps_ns`. Only the KV read grows from step to step."""
        rows, _ = self._decode_rows(requests)
        exact = self._kv.over(kv_tokens, requests, steps)
        # the same operations in the same order as in `step_ns`, so the same rounding
        exact += rows
        rounded: NDArray[np.int64] = np.rint(exact, out=exact).astype(np.int64)
        return rounded

    def took(self, requests: int, kv_tokens: int, steps: int) -> None:
        """See `LatencyModel.took`."""
        for name in self._decode_rows(requests)[1]:
            self._beyond[name] += steps
        last = kv_tokens + requests * (steps - 1)
        if kv_tokens < self._kv_least or last > self._kv_most:
            # steps 0 to below - 1 read less than was measured, steps from above on more
            below = -(-(self._kv_least - kv_tokens) // requests)
            above = (self._kv_most - kv_tokens) // requests + 1
            inside = min(max(above, 0), steps) - min(max(below, 0), steps)
            self._beyond["decode_kv_tokens"] += steps - max(inside, 0)

    def flags(self) -> Mapping[str, int]:
        """See `LatencyModel.flags`: by driver, with the range that was measured."""
        found = {}
        for name, count in sorted(self._beyond.items()):
            if name in self._ranges:
                least, most = self._ranges[name]
                found[f"{name} outside {least} to {most}"] = count
            else:
                found[f"{name} steps, of which none was measured"] = count
        return found

    @property
    def approximations(self) -> tuple[str, ...]:
        """See `LatencyModel.approximations`."""
        return self.profile.approximations

    def _decode_rows(self, requests: int) -> tuple[float, tuple[str, ...]]:
        """What does not grow with the KV read, and what of it is beyond its range."""
        known = self._rows.get(requests)
        if known is None:
            ns = self._rows_ns(requests, requests, requests)
            known = self._rows[requests] = ns, self._decode_beyond(requests)
        return known

    def _rows_ns(self, tokens: int, requests: int, sampled: int) -> float:
        ns = self._fixed + self._tokens.at(tokens)
        return ns + requests * self._decode_row + sampled * self._sampled

    def _with_prefill(self, shape: StepShape) -> int:
        prefill, requests, kv_tokens, sampled, _ = shape
        new_tokens = cached_tokens = pairs_twice = 0
        for new, cached in prefill:
            new_tokens += new
            cached_tokens += cached
            # causal: the i-th of the new tokens sees the cached ones and i new ones
            pairs_twice += new * (2 * cached + new + 1)
        tokens, pairs = new_tokens + requests, pairs_twice // 2
        ns = self._rows_ns(tokens, requests, sampled) + self._kv.at(kv_tokens)
        ns += self._pairs.at(pairs)
        ns += cached_tokens * self._cached
        ns += len(prefill) * self._prefill_row
        ns += self._prefill_fixed
        ranges, beyond = self._ranges, self._beyond
        for name, value in (
            ("tokens", tokens),
            ("prefill_requests", len(prefill)),
            ("prefill_pairs", pairs),
            ("cached_tokens", cached_tokens),
            ("decode_requests", requests),
            ("decode_kv_tokens", kv_tokens),
        ):
            least, most = ranges[name]
            if value and not least <= value <= most:
                beyond[name] += 1
        mode = "mixed" if requests else "extend"
        if mode not in self._modes:
            beyond[mode] += 1
        return round(ns)

    def _decode_beyond(self, requests: int) -> tuple[str, ...]:
        found = []
        for name in ("decode_requests", "tokens"):
            least, most = self._ranges[name]
            if not least <= requests <= most:
                found.append(name)
        if "decode" not in self._modes:
            found.append("decode")
        return tuple(found)
