"""A curve: how long one operator takes, over one size.

Knots hold measured times, made monotone. Between two knots time is linear in the operator's work
(`simulator.operators.work`), so a curve bends where work does; below the first it
shrinks with work; beyond the last it follows a straight line in work, fitted to the last factor of
eight in size, so that no one measurement decides. It is monotone everywhere, since knots and work
are, and the line begins no lower than the last knot.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from simulator.operators.monotone import monotone
from simulator.operators.work import Work  # noqa: TC001 - a field of a model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# how far back, as a factor of size, the line beyond the last knot is fitted
FITTED = 8
# of a knot's time: what leaving it out may change there
THINNED: float = 0.01


class Curve(BaseModel):
    """Nanoseconds of one call over a size.

    Attributes:
        work: what it does at each size.
        sizes: increasing, above 0; the first and last are the measured range.
        ns: time at each, never falling.
        line: beyond the last, time at the last size and time per nanosecond of work from there;
            in proportion to work when left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    work: Work
    sizes: tuple[int, ...]
    ns: tuple[float, ...]
    line: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_axis("sizes", self.sizes, len(self.ns))
        if self.ns[0] <= 0 or any(b < a for a, b in pairwise(self.ns)):
            raise ValueError("ns must be above 0 and never fall")
        if self.line is not None and self.line[1] < 0:
            raise ValueError(f"line falls: {self.line}")
        return self

    @classmethod
    def measured(
        cls,
        work: Work,
        sizes: Sequence[float] | NDArray[np.float64],
        ns: NDArray[np.float64],
        *,
        thin: bool = True,
    ) -> Curve:
        """From measured times: made monotone, and knots that others explain within 1 % left out."""
        smooth = monotone(ns)
        keep = list(range(len(sizes)))
        ruler = np.array([work.at(size) for size in sizes])
        if thin:
            keep = _needed(ruler, smooth)
        return cls(
            work=work,
            sizes=tuple(int(sizes[i]) for i in keep),
            ns=tuple(round(float(smooth[i]), 1) for i in keep),
            line=_line(np.asarray(sizes, float), ruler, smooth),
        )

    @cached_property
    def _ruler(self) -> list[float]:
        return [self.work.at(size) for size in self.sizes]

    def at(self, size: int) -> float:
        """Nanoseconds at a size; 0 at size 0."""
        if size <= 0:
            return 0.0
        sizes, ns, ruler = self.sizes, self.ns, self._ruler
        i = bisect_right(sizes, size)
        if i == len(sizes):
            if size == sizes[-1]:
                return ns[-1]
            start, slope = self.line or (ns[-1], ns[-1] / ruler[-1])
            return max(ns[-1], start + slope * (self.work.at(size) - ruler[-1]))
        here = self.work.at(size)
        if i == 0:
            return ns[0] * (here / ruler[0])
        low, high = ruler[i - 1], ruler[i]
        if high <= low:
            return ns[i - 1]
        return ns[i - 1] + (ns[i] - ns[i - 1]) * ((here - low) / (high - low))

    def beyond(self, size: int) -> bool:
        """Whether a size lies outside the measured range."""
        return size > 0 and not self.sizes[0] <= size <= self.sizes[-1]


def check_axis(name: str, values: Sequence[float], length: int) -> None:
    """An axis has as many values as there are times, not negative and increasing."""
    if len(values) != length or not values:
        raise ValueError(f"{name} has {len(values)} values for {length} times; expected as many")
    if values[0] < 0 or any(b <= a for a, b in pairwise(values)):
        raise ValueError(f"{name} must increase: {values}")


def _line(
    sizes: NDArray[np.float64], ruler: NDArray[np.float64], ns: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Least squares over the last sizes: time at the last of them, and slope over work."""
    last = sizes >= sizes[-1] / FITTED
    x, y = ruler[last], ns[last]
    spread = x - x.mean()
    variance = float((spread * spread).sum())
    if variance == 0:
        return None
    slope = float((spread * y).sum()) / variance
    return float(y.mean() + slope * (x[-1] - x.mean())), slope


def _needed(ruler: NDArray[np.float64], ns: NDArray[np.float64]) -> list[int]:
    """Knots to keep, greedily: from each, as far as a straight line in work stays within 1 %."""
    keep, start = [0], 0
    while start < len(ns) - 1:
        end = start + 1
        while end + 1 < len(ns):
            inside = slice(start, end + 2)
            ends = [ruler[start], ruler[end + 1]]
            line = np.interp(ruler[inside], ends, [ns[start], ns[end + 1]])
            if (np.abs(line / ns[inside] - 1) > THINNED).any():
                break
            end += 1
        keep.append(end)
        start = end
    return keep
