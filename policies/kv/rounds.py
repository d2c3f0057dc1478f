"""When the members of a running batch come to the border of a page, over many decode rounds.

A member writes one token a round, so it crosses a border every `size` rounds. In each cycle of as many
rounds all members cross one, in the same order; so what happens in a thousand rounds follows from who
comes when in the first `size` of them. What is done at a border is not known here.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

    from policies.request import Request

    Int64Array = npt.NDArray[np.int64]


class Crossings:
    """The crossings of many rounds, counted in order: by round, and in a round by member.

    Args:
        cycle: who crosses in each round of the first cycle, as long as a page has tokens.
        rounds: how many rounds; nobody joins or leaves in them.

    Attributes:
        members: those that cross, in the order of their first crossing. Member `members[p]` makes the
            crossings p, p + n, p + 2n, ..., where n is the length of the list.
        total: crossings.
    """

    __slots__ = ("_by_round", "_rounds", "_size", "members", "total")

    def __init__(self, cycle: Sequence[Collection[Request]], rounds: int) -> None:
        first = cycle[:rounds]
        self.members: list[Request] = list(chain.from_iterable(first))
        self.total = len(self.members)
        self._by_round = list(map(len, first))
        self._rounds = rounds
        self._size = len(cycle)
        if rounds > self._size:
            cycles, rest = divmod(rounds, self._size)
            self.total = cycles * self.total + sum(self._by_round[:rest])

    def by_round(self, which: npt.NDArray[np.int64]) -> Int64Array:
        """How many of some crossings are made in each round: int64, shape (rounds,).

        Args:
            which: int64, the crossings to count, each once.
        """
        if len(which) == self.total:  # mostly it is all or nothing
            every = np.array(self._by_round, dtype=np.int64)
            return every if self._rounds <= self._size else np.resize(every, self._rounds)
        if not len(which):
            return np.zeros(self._rounds, dtype=np.int64)
        cycle, at = np.divmod(which, len(self.members))
        wait = np.arange(len(self._by_round)).repeat(self._by_round)
        return np.bincount(cycle * self._size + wait[at], minlength=self._rounds)
