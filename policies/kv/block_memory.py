"""KV memory as a block pool: what each request holds, and what of it can be found again.

The counterpart of `KVMemory` for scheduling in vLLM's way. A request's blocks are its own or shared
with others that found them; a full block of known tokens can be found as soon as the step that
computes it is planned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.cache.base import Match
from policies.kv.blocks import BlockPool, chain_hashes, chain_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from policies.batch import Cohort, DecodeRows, Int64Array
    from policies.kv.pool import Int32Array
    from policies.request import Request
    from policies.running import RunningBatch


class BlockMemory:
    """See the module.

    Args:
        capacity: tokens, floored to whole blocks.
        block_size: tokens a block.
        rows: requests that may hold KV at once.
        caching: whether blocks can be found again.
    """

    def __init__(self, capacity: int, block_size: int, rows: int, *, caching: bool) -> None:
        self.page_size = block_size
        self.capacity = capacity // block_size * block_size
        self.rows = rows
        self.pool = BlockPool(capacity // block_size, caching=caching)
        self._free_rows = list(range(rows, 0, -1))

    # -- sizes, in tokens ---------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Tokens in free blocks that cannot be found any more."""
        return (self.pool.free - self.pool.reusable) * self.page_size

    @property
    def evictable(self) -> int:
        """Tokens in free blocks that can still be found."""
        return self.pool.reusable * self.page_size

    @property
    def protected(self) -> int:
        """Tokens in blocks that requests hold and others can find."""
        return (self.pool.findable - self.pool.reusable) * self.page_size

    @property
    def evicted_tokens(self) -> int:
        """Tokens in blocks handed out that could still have been found, in all."""
        return self.pool.evicted * self.page_size

    def blocks(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.page_size)

    # -- finding ------------------------------------------------------------------------------

    def lookup(self, request: Request) -> list[int]:
        """The blocks a request could start from: full ones, and one token is left to compute."""
        if not self.pool.caching:
            return []
        most = (request.seq_len - 1) // self.page_size
        self._hash_to(request, most)
        return self.pool.lookup(request.hashes[:most])

    def match_whole(self, request: Request) -> Match:
        """The cached prefix of all of a request's tokens, for queue orders. Changes nothing."""
        if not self.pool.caching:
            return Match(0, None)
        most = request.seq_len // self.page_size
        self._hash_to(request, most)
        return Match(len(self.pool.lookup(request.hashes[:most])) * self.page_size, None)

    def _hash_to(self, request: Request, blocks: int) -> None:
        """Extend a request's chain of hashes to so many blocks."""
        hashes = request.hashes
        have = len(hashes)
        if have < blocks:
            tokens = request.tokens.read(blocks * self.page_size)[have * self.page_size :]
            before = hashes[-1] if hashes else chain_seed(request.extra_key)
            hashes.extend(chain_hashes(before, tokens, self.page_size))

    # -- holding ------------------------------------------------------------------------------

    def start(self, request: Request, found: Sequence[int]) -> None:
        """Admit a request with the blocks found for it."""
        self.pool.touch(found)
        request.row = self._free_rows.pop()
        request.blocks = list(found)
        request.registered = len(found)
        request.prefix_len = len(found) * self.page_size
        request._kv_len = request.prefix_len  # its KV is accounted here

    def extend(self, request: Request, tokens: int) -> bool:
        """Give a request blocks for `tokens` tokens in all; False, and nothing, if they are not free."""
        new = self.blocks(tokens) - len(request.blocks)
        if new > self.pool.free:
            return False
        if new > 0:
            request.blocks += self.pool.take(new)
        return True

    def register(self, request: Request, tokens: int) -> None:
        """Let the full blocks among a request's first `tokens` tokens, all known, be found."""
        full = tokens // self.page_size
        if full <= request.registered or not self.pool.caching:
            return
        self._hash_to(request, full)
        for i in range(request.registered, full):
            self.pool.enter(request.blocks[i], request.hashes[i])
        request.registered = full

    def unregister(self, request: Request, blocks: int) -> None:
        """Let only a request's first `blocks` blocks be found: the rest was never computed."""
        for block in request.blocks[blocks : request.registered]:
            self.pool.forget(block)
        request.registered = min(request.registered, blocks)

    def finish(self, request: Request) -> None:
        """Let go of everything a request holds; what can be found stays so until it is reused."""
        self.release(request)

    def release(self, request: Request) -> None:
        """Let go of everything a request holds."""
        if request.row is None:
            return
        self.pool.release(request.blocks)
        self._free_rows.append(request.row)
        request.row = None
        request.blocks = []
        request.registered = request.prefix_len = request.extend_end = 0
        request._kv_len = 0

    # -- decode rounds ------------------------------------------------------------------------

    def round_fits(self, running: RunningBatch) -> bool:
        """Whether the next decode round has memory."""
        return running.pages_needed() <= self.pool.free

    def extend_round(self, rows: DecodeRows, *, known_ahead: int) -> None:
        """Allocate for a decode round just planned, and register the blocks it completes.

        Args:
            rows: the round.
            known_ahead: 1 if the token computed in this round is known on the host when it is
                planned, so that the block it fills can be registered; 0 if it is still in flight.
        """
        size = self.page_size
        places = rows.seq_lens() - 1  # of the token written in this round
        starts = places % size == 0
        full = (places + known_ahead) % size == 0
        for i in np.flatnonzero(starts | full).tolist():
            request, place = rows.requests[i], int(places[i])
            self.extend_by_round(request, place + known_ahead, starts=bool(starts[i]))

    def repeat_rounds(
        self, cohort: Cohort, first: int, rounds: int, *, known_ahead: int
    ) -> Int64Array:
        """As many rounds as `extend_round` would take, in their order; arguments as for `shares_of`.

        Returns:
            shape (4, rounds): free, evictable, protected and, in all, evicted tokens as each leaves
            them.
        """
        gauges = np.empty((4, rounds), dtype=np.int64)
        done = 0
        for round_, shares in self.shares_of(cohort, first, rounds, known_ahead=known_ahead):
            gauges[:, done:round_] = self._gauges()
            done = round_
            for request, tokens, starts in shares:
                self.extend_by_round(request, tokens, starts=starts)
        gauges[:, done:] = self._gauges()
        return gauges

    def _gauges(self) -> Int64Array:
        return np.array([[self.free], [self.evictable], [self.protected], [self.evicted_tokens]])

    def shares_of(
        self, cohort: Cohort, first: int, rounds: int, *, known_ahead: int
    ) -> list[tuple[int, list[tuple[Request, int, bool]]]]:
        """What `extend_round` would do in each of many rounds, for those in which it does something.

        Args:
            cohort: the members.
            first: number of the first round.
            rounds: how many.
            known_ahead: as for `extend_round`.

        Returns:
            by round, counted from 0: members in order, the tokens of theirs that are known then, and
            whether the token written starts a block.
        """
        size = self.page_size
        places = cohort.offsets + (first - 1)  # of the token written in the first round
        events: dict[int, dict[int, bool]] = {}
        for ahead, starts in ((0, True), (known_ahead, False)):
            for member, begin in enumerate((-(places + ahead) % size).tolist()):
                for i in range(begin, rounds, size):
                    members = events.setdefault(i, {})
                    members[member] = starts or members.get(member, False)
        requests, where = cohort.requests, places.tolist()
        return [
            (
                i,
                [
                    (requests[m], where[m] + i + known_ahead, new)
                    for m, new in sorted(members.items())
                ],
            )
            for i, members in sorted(events.items())
        ]

    def extend_by_round(self, request: Request, tokens: int, *, starts: bool) -> None:
        """A member's share of a decode round: a block if it starts one, and those that are full."""
        if starts:
            request.blocks += self.pool.take(1)
        self.register(request, tokens)

    def pages(self, request: Request) -> Int32Array:
        """The numbers of a request's blocks, int32."""
        return np.array(request.blocks, dtype=np.int32)

    # -- checking -----------------------------------------------------------------------------

    def check(self, holders: Iterable[Request]) -> None:
        """Raise AssertionError unless every block and row is accounted for."""
        holding = [r for r in holders if r.row is not None]
        self.pool.check([r.blocks for r in holding])
        assert self.pool.free + len({b for r in holding for b in r.blocks}) == self.pool.blocks
        rows = {r.row for r in holding}
        assert len(rows) == len(holding), "two requests share a row"
        assert len(rows) + len(self._free_rows) == self.rows, "a row is lost"
        for request in holding:
            assert len(request.blocks) == self.blocks(request.kv_len), f"{request}: blocks"
            assert request.registered * self.page_size <= request.seq_len, f"{request}: registered"
