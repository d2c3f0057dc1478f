"""When the members of a running batch come to the border of a block, over many decode rounds.

A member writes one token a round, so it crosses a border every `size` rounds. In each cycle of as many
rounds all members cross one, in the same order; so what happens in a thousand rounds follows from who
comes when in the first `size` of them. What is done at a border is not known here.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]


class Borders:
    """The members of a batch by when they cross, while nobody joins or leaves.

    Args:
        offsets: int64, shape (n,): in round r a member is at place `offset + r`.
        size: tokens a block. A member crosses a border where its place is a multiple of that.
    """

    __slots__ = ("_members", "_phases", "_size", "offsets")

    def __init__(self, offsets: Int64Array, size: int) -> None:
        phases = -offsets % size
        order = phases.argsort(kind="stable")
        self.offsets: list[int] = offsets.tolist()
        self._members: list[int] = order.tolist()
        self._phases: list[int] = phases[order].tolist()  # each one's rounds, modulo size
        self._size = size

    def crossings(self, first: int, rounds: int) -> Crossings:
        """Who crosses in so many rounds.

        Args:
            first: number of the first of them.
            rounds: how many.
        """
        size, members, phases = self._size, self._members, self._phases
        phase = first % size
        begin = bisect_left(phases, phase)
        cycles, rest = divmod(rounds, size)
        if phase + rest < size:
            crossing = members[begin : bisect_left(phases, phase + rest)]
        else:
            crossing = members[begin:] + members[: bisect_left(phases, phase + rest - size)]
        if not cycles:
            return Crossings(self, first, rounds, crossing, len(crossing))
        total = cycles * len(members) + len(crossing)
        return Crossings(self, first, rounds, members[begin:] + members[:begin], total)

    def waits(self, members: Sequence[int], first: int) -> Int64Array:
        """Rounds until each of some members crosses for the first time: int64, same shape."""
        return -(np.array([self.offsets[i] for i in members], dtype=np.int64) + first) % self._size


class Crossings:
    """The crossings of many rounds, counted in order: by round, and in a round by member.

    Attributes:
        members: those that cross, in the order of their first crossing. Member `members[p]` makes the
            crossings p, p + n, p + 2n, ..., where n is the length of the list.
        total: crossings.
    """

    __slots__ = ("_borders", "_first", "_rounds", "members", "total")

    def __init__(
        self, borders: Borders, first: int, rounds: int, members: list[int], total: int
    ) -> None:
        self._borders = borders
        self._first = first
        self._rounds = rounds
        self.members = members
        self.total = total

    def by_round(self, which: npt.NDArray[np.int64]) -> Int64Array:
        """How many of some crossings are made in each round: int64, shape (rounds,).

        Args:
            which: int64, the crossings to count.
        """
        size = self._borders._size
        cycle, at = np.divmod(which, max(len(self.members), 1))
        wait = self._borders.waits(self.members, self._first)
        return np.bincount(cycle * size + wait[at], minlength=self._rounds)
