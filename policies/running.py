"""The running batch: the requests that decode, advanced all at once.

A decode round gives every member one more token. Rather than touching each member, the batch counts
rounds, planned and committed, and a member's lengths follow from when it joined. What must still be
found without looking at everyone is kept ready: who reaches its length limit (a heap by round), who
needs a new page (members by page phase), and the sum of KV lengths.

Rounds are planned ahead of being committed by as many steps as are in flight.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from functools import partial
from itertools import accumulate, count
from operator import neg, sub
from typing import TYPE_CHECKING

from policies.batch import Cohort, DecodeRows, offset_of
from policies.kv.rounds import Crossings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from policies.batch import Batch
    from policies.request import Request


class RunningBatch:
    """Members in batch order.

    Attributes:
        requests: the members; change them through the methods only.
        full: a former attempt found no room for another request, and nobody has left since.
        planned: decode rounds planned so far.
        committed: decode rounds whose results were accepted.
    """

    def __init__(self, page_size: int) -> None:
        self.requests: list[Request] = []
        self.full = False
        self.planned = 0
        self.committed = 0
        self._page_size = page_size
        # by (offset % page_size): the members, in the order in which they joined or were kept
        self._phases: list[dict[Request, None]] = [{} for _ in range(page_size)]
        self._offset_sum = 0  # sum over members of KV length in round r, minus r
        self._asked_sum = 0  # sum over members of prompt and output tokens asked for
        self._ends: list[tuple[int, int, Request]] = []  # heap: (round count at which it ends)
        self._ending: list[tuple[int, int, Request]] = []  # left, their last token in flight
        self._serial = count(1)  # of joinings: a request that left has none of them
        self._fresh: list[Request] = []  # joined since the last round was planned
        self._cohort: Cohort | None = None  # None after a change of membership
        self._late: dict[int, list[Request]] = {}  # round in flight -> members that ended meanwhile

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    @property
    def in_flight(self) -> int:
        """Rounds planned and not yet committed."""
        return self.planned - self.committed

    @property
    def kv_tokens(self) -> int:
        """Sum of the members' KV lengths, in tokens."""
        return self._offset_sum + len(self.requests) * (self.planned - 1)

    def remaining_tokens(self) -> list[int]:
        """Output tokens that each member may still produce, as `Request.remaining_tokens` says."""
        committed = self.committed
        return [
            r.max_new_tokens
            - r._output_len
            - (committed - r._joined if committed > r._joined else 0)
            for r in self.requests
        ]

    def remaining_at_most(self) -> int:
        """No less than the sum of `remaining_tokens`, and hardly more, without a look at members.

        Each may produce what its KV, by the rounds committed, is short of all that it asked for; and one
        token more while its prefill is in flight.
        """
        return self._asked_sum - self._offset_sum - len(self.requests) * (self.committed - 1)

    # -- membership ---------------------------------------------------------------------------

    def join(self, new: Sequence[Request], *, front: bool = False) -> None:
        """Take in requests whose prefill is planned to the end; they decode from the next round on.

        Or take back those who left, once nothing of theirs is in flight.

        Args:
            new: in batch order, each with its KV length as the prefill leaves it.
            front: stand before the present members rather than behind them.
        """
        if not new:
            return
        planned = self.planned
        for request in new:
            if request._running is not None:  # it left, and comes back
                assert request._left is not None
                assert request._left <= self.committed, "a round is in flight for it"
                request._kv_len, request._output_len = request.kv_len, request.output_len
            request._running, request._joined, request._left = self, planned, None
            request._join = next(self._serial)
            heapq.heappush(self._ends, (self._count_in(request), request._join, request))
        self.requests = [*new, *self.requests] if front else [*self.requests, *new]
        self._fresh.extend(new)
        self._cohort = None

    def leave(self, gone: Sequence[Request]) -> None:
        """Take members out; the order of the rest is kept. Rounds in flight still count for them.

        They may come back, and then end later: nobody is due to end meanwhile.
        """
        self._take_out(gone)
        for request in gone:
            request._join = 0

    def _take_out(self, gone: Sequence[Request]) -> None:
        kept = self.requests.copy()
        for request in gone:
            kept.remove(request)
            self._count_out(request)
            request._left = self.planned
        self.requests = kept
        self._cohort = None

    def keep(self, kept: Sequence[Request]) -> None:
        """Make `kept`, in this order, the members; all others leave."""
        for request in set(self.requests).difference(kept):
            self._count_out(request)
            request._left = self.planned
        self.requests = list(kept)
        for request in kept:  # behind those kept before it
            phase = self._phases[offset_of(request) % self._page_size]
            del phase[request]
            phase[request] = None
        self._cohort = None

    def settle(self, request: Request) -> bool:
        """Fix the lengths of a request that ended or was retracted, at what is committed.

        Its rows in rounds still in flight are void from now on: `commit` names them as late.

        Returns:
            whether it was still a member; if so, it no longer is.
        """
        if request._running is None:
            return False
        was_member = request._left is None
        if was_member:
            self.leave((request,))
        until, joined, committed = request._left, request._joined, self.committed
        assert until is not None
        if committed < until:
            for round_ in range(max(committed, joined), until):
                self._late.setdefault(round_, []).append(request)
        request._output_len = request.output_len
        request._kv_len += until - joined
        request._running = request._left = None
        request._join = 0
        return was_member

    def _count_in(self, request: Request) -> int:
        """Count a member in; returns the round count at which it has all that it asked for."""
        offset = offset_of(request)
        asked = request.prompt_len + request.max_new_tokens
        self._phases[offset % self._page_size][request] = None
        self._offset_sum += offset
        self._asked_sum += asked
        return asked - offset  # the token after its KV was sampled by its prefill

    def _count_out(self, request: Request) -> None:
        """Count out a member."""
        offset = offset_of(request)
        del self._phases[offset % self._page_size][request]
        self._offset_sum -= offset
        self._asked_sum -= request.prompt_len + request.max_new_tokens

    # -- planning -----------------------------------------------------------------------------

    def pages_needed(self) -> int:
        """Members whose next token starts a new page."""
        return len(self._phases[(1 - self.planned) % self._page_size])

    def leave_finishing(self) -> bool:
        """Take out the members whose last token, by their length limit, is already in flight.

        Returns whether there were any. They still end by `due` when that token is committed.
        """
        if not self._ends or self._ends[0][0] > self.planned:
            return False
        ending = self._take_ends(self.planned)
        if ending:
            self._ending += ending
            self._take_out([entry[2] for entry in ending])
        return bool(ending)

    def _take_ends(self, until: int) -> list[tuple[int, int, Request]]:
        """Take out of the heap who ends by that round; not those who left, or joined again since."""
        ends, taken = self._ends, []
        while ends and ends[0][0] <= until:
            entry = heapq.heappop(ends)
            if entry[2]._join == entry[1]:
                taken.append(entry)
        return taken

    def advance(self) -> DecodeRows:
        """Plan a round: every member becomes one token longer."""
        round_ = self.planned
        self.planned = round_ + 1
        cohort = self._cohort or self._new_cohort(round_)
        return DecodeRows(cohort, round_)

    def _new_cohort(self, round_: int) -> Cohort:
        """The members from a round on, after a change of membership."""
        joined: tuple[Request, ...] = ()
        if self._fresh:
            # once each: a request that was preempted before its first round has joined twice
            fresh = dict.fromkeys(self._fresh)
            joined = tuple([r for r in fresh if r._running is self and r._left is None])
            self._fresh.clear()
        self._cohort = Cohort(tuple(self.requests), joined, round_, self._offset_sum)
        return self._cohort

    # -- many rounds at once ------------------------------------------------------------------

    def steady_rounds(self, last: Batch, *, ahead: bool) -> int | None:
        """Rounds that could follow the last decode batch before a member is due to end.

        None if anyone joined or left since.

        Args:
            last: the batch launched last.
            ahead: whether it is in flight while the next one is planned.
        """
        rows, ends = last.decode, self._ends
        if rows is None or rows.cohort is not self._cohort or self._ending:
            return None
        while ends and ends[0][2]._join != ends[0][1]:  # has left
            heapq.heappop(ends)
        return ends[0][0] - self.planned - (not ahead) if ends else None

    def departures(self) -> Iterator[DecodeRows]:
        """The rows of the rounds from which on members have left at the length they asked for.

        Soonest first, as far as is known now; rows without anyone come last.
        """
        ends, requests, offset_sum = self._ends.copy(), self.requests.copy(), self._offset_sum
        while requests:
            round_, left = ends[0][0], len(requests)
            while ends and ends[0][0] == round_:
                _, join, request = heapq.heappop(ends)
                if request._join == join:
                    requests.remove(request)
                    offset_sum -= offset_of(request)
            if len(requests) < left:
                yield DecodeRows(Cohort(tuple(requests), (), round_, offset_sum), round_)

    def repeat(self, rounds: int) -> None:
        """Plan and commit so many rounds; as many stay in flight as were."""
        self.planned += rounds
        self.committed += rounds

    def _in_turn(self, ahead: int = 0) -> list[dict[Request, None]]:
        """The members by the round in which each starts a page, or comes so many rounds before that.

        The next round first; as many rounds as a page has tokens, for then it begins anew.
        """
        phases, place = self._phases, (1 - self.planned - ahead) % self._page_size
        return phases[place::-1] + phases[:place:-1]

    def crossings(self, rounds: int, *, ahead: int = 0) -> Crossings:
        """Who comes to the border of a page in each of the next so many rounds.

        Args:
            rounds: how many.
            ahead: 0 for who starts a page; 1 for who fills one.
        """
        return Crossings(self._in_turn(ahead), rounds)

    def free_ahead(self, free: int) -> Callable[[int], Sequence[int]]:
        """Makes, for so many next rounds, what each leaves of so many free tokens; below 0, it lacks.

        It answers as of now, whatever happens to the batch meanwhile.
        """
        size = self._page_size
        return partial(_free_after, free, [size * len(members) for members in self._in_turn()])

    def rounds_leaving(self, least: int, free: int, at_most: int) -> int:
        """Of so many next rounds, those that leave at least so many of the free tokens."""
        left = self.free_ahead(free)(at_most)
        return bisect_right(left, -least, key=neg)  # it falls from round to round

    def pages_within(self, rounds: int) -> int:
        """New pages that the next so many rounds need in all."""
        cycles, rest = divmod(rounds, self._page_size)
        pages = cycles * len(self.requests)
        return pages + sum(map(len, self._in_turn()[:rest])) if rest else pages

    # -- committing ---------------------------------------------------------------------------

    def commit(self, rows: DecodeRows) -> tuple[Request, ...]:
        """Accept a round's tokens. Returns the members for whom they came too late.

        Raises:
            RuntimeError: if rounds are committed out of order.
        """
        if rows.round != self.committed:
            msg = f"decode round {rows.round} committed, but round {self.committed} is the oldest"
            raise RuntimeError(msg)
        self.committed += 1
        return tuple(self._late.pop(rows.round, ())) if self._late else ()

    def due(self) -> list[Request]:
        """The requests that reach their length limit with the rounds committed so far."""
        ending, ends, committed = self._ending, self._ends, self.committed
        if not ending and not (ends and ends[0][0] <= committed):
            return []
        due = [r for ends_at, join, r in ending if ends_at <= committed and r._join == join]
        self._ending = [entry for entry in ending if entry[0] > committed]
        return due + [entry[2] for entry in self._take_ends(committed)]


def _free_after(free: int, taken: list[int], rounds: int) -> Sequence[int]:
    """See `RunningBatch.free_ahead`; `taken` are the tokens of each round, until it begins anew."""
    if len(taken) == 1:  # every member, every round
        return range(free - taken[0], free - taken[0] * rounds - 1, -taken[0])
    cycles = rounds // len(taken) + 1
    return list(accumulate((taken * cycles)[:rounds], sub, initial=free))[1:]
