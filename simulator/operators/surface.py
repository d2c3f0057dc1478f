"""A surface: how long attention takes, over how many sequences and how long they are.

Times stand at the crossings of a grid, monotone along both axes. Between them they are linear in
the operator's work (`simulator.operators.work`), along either axis; beyond the grid they grow as
work does. Which crossings were measured and which are kriged is not kept crossing by crossing:
`most_tokens` says how much was measured at most.

A decode step asks for the same rows over and over, so `cut` fixes the number of rows; a cut answers
one length or many in the same arithmetic, bit for bit.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from simulator.operators.curve import check_axis
from simulator.operators.work import BatchWork  # noqa: TC001 - a field of a model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Surface(BaseModel):
    """Nanoseconds of one call over (rows, length).

    Attributes:
        work: what it does.
        rows: numbers of sequences, increasing.
        lengths: their lengths, increasing.
        ns: `ns[i][j]` at `rows[i]` and `lengths[j]`; never falls along either.
        most_tokens: the most `rows * length` measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    work: BatchWork
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    ns: tuple[tuple[float, ...], ...]
    most_tokens: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_axis("rows", self.rows, len(self.ns))
        for times in self.ns:
            check_axis("lengths", self.lengths, len(times))
        table = np.array(self.ns)
        if (table <= 0).any() or (np.diff(table, axis=0) < 0).any() or (np.diff(table) < 0).any():
            raise ValueError("ns must be above 0 and never fall along either axis")
        return self

    def _crossings(self) -> tuple[Floats, Floats]:
        """Times, and work, at the crossings."""
        lengths = np.array(self.lengths, float)
        return np.array(self.ns), np.array([self.work.over(rows, lengths) for rows in self.rows])

    def cut(self, rows: int) -> Cut:
        """The surface at a number of rows."""
        ns, ruler = self._crossings()
        here = self.work.over(rows, np.array(self.lengths, float))
        i = bisect_right(self.rows, rows)
        if i == 0 or i == len(self.rows):
            edge = max(i - 1, 0)
            times = ns[edge] * (here / ruler[edge])
        else:
            weight = (here - ruler[i - 1]) / (ruler[i] - ruler[i - 1])
            times = ns[i - 1] + weight * (ns[i] - ns[i - 1])
        # the two rows may weigh differently from length to length: a cut never falls all the same
        return Cut(self, rows, np.maximum.accumulate(times), here)

    def thinned(self, tolerance: float = 0.03) -> Surface:
        """The same with fewer crossings: rows and lengths that the others explain are left out.

        At no crossing of this surface does the thinner one differ by more than `tolerance`.
        """
        truth = np.array(self.ns)
        rows, lengths = list(range(len(self.rows))), list(range(len(self.lengths)))
        thin = self
        for axis in (rows, lengths):
            for at in axis[1:-1]:
                axis.remove(at)
                fewer = self.model_copy(
                    update={
                        "rows": tuple(self.rows[i] for i in rows),
                        "lengths": tuple(self.lengths[j] for j in lengths),
                        "ns": tuple(tuple(self.ns[i][j] for j in lengths) for i in rows),
                    }
                )
                every = np.array(self.lengths, float)
                found = np.array([fewer.cut(n).over(every) for n in self.rows])
                if (np.abs(found / truth - 1) > tolerance).any():
                    axis.append(at)
                    axis.sort()
                else:
                    thin = fewer
        return thin

    def beyond(self, rows: int, length: float) -> bool:
        """Whether a batch lies outside what was measured."""
        return (
            rows > self.rows[-1]
            or length > self.lengths[-1]
            or rows * length > 1.001 * self.most_tokens
        )


class Cut:
    """A surface at one number of rows: nanoseconds over the length alone.

    Args:
        surface: what is cut.
        rows: where.
        ns: times at the surface's lengths, shape (lengths,).
        ruler: work there, shape (lengths,).
    """

    def __init__(self, surface: Surface, rows: int, ns: Floats, ruler: Floats) -> None:
        self._work = surface.work
        self._rows = rows
        # A piece to the left of the first length, one between each two, and one beyond the last:
        # each a time, the work there, and the slope of time over work.
        slopes = np.diff(ns) / np.diff(ruler)
        self._lengths: list[float] = [float(n) for n in surface.lengths]
        self._ns = np.concatenate([ns[:1], ns])
        self._ruler = np.concatenate([ruler[:1], ruler])
        self._slopes = np.concatenate([[0.0], slopes, ns[-1:] / ruler[-1:]])
        self._pieces: list[tuple[float, float, float]] = list(
            zip(self._ns.tolist(), self._ruler.tolist(), self._slopes.tolist(), strict=True)
        )

    def at(self, length: float) -> float:
        """Nanoseconds at one length; below the first as at the first."""
        ns, ruler, slope = self._pieces[bisect_right(self._lengths, length)]
        return ns + slope * (self._work.at(self._rows, length) - ruler)

    def over(self, lengths: Floats) -> Floats:
        """`at` of each length, the same bits; shape as given."""
        i = np.searchsorted(self._lengths, lengths, side="right")
        work = self._work.over(self._rows, lengths)
        return np.asarray(self._ns[i] + self._slopes[i] * (work - self._ruler[i]))
