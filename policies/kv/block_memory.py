"""KV memory as a block pool: what each request holds, and what of it can be found again.

The counterpart of `KVMemory` for scheduling in vLLM's way. A request's blocks are its own or shared
with others that found them; a full block of known tokens can be found as soon as the step that
computes it is planned.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from policies.batch import offset_of
from policies.cache.base import Match
from policies.cache.prefix import known_tokens
from policies.kv.blocks import BlockPool
from policies.kv.contents import Contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from policies.kv.blocks import Int64Array
    from policies.kv.contents import Chain
    from policies.kv.pool import Int32Array
    from policies.kv.rounds import Crossings
    from policies.request import Request
    from policies.running import RunningBatch


class _Passage(NamedTuple):
    """What became of blocks in the decode rounds that were gone through."""

    starts: Crossings  # where members started a block
    lost: Int64Array  # what the block given out each time could still have been found by, or 0
    full: Crossings  # where members filled a block
    entered: list[int]  # at which of these crossings it was entered, in whatever order


class BlockMemory:
    """See the module.

    Args:
        capacity: tokens, floored to whole blocks.
        block_size: tokens a block.
        rows: requests that may hold KV at once.
        caching: whether blocks can be found again.
        unhashed_first: see `BlockPool`.
    """

    def __init__(
        self,
        capacity: int,
        block_size: int,
        rows: int,
        *,
        caching: bool,
        unhashed_first: bool = True,
    ) -> None:
        self.page_size = block_size
        self.capacity = capacity // block_size * block_size
        self.rows = rows
        blocks = capacity // block_size
        self.pool = BlockPool(blocks, caching=caching, unhashed_first=unhashed_first)
        self._free_rows = list(range(rows, 0, -1))
        self._contents = Contents(block_size)
        self._sweep_at = self.pool.blocks  # different contents

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

    def lookup(self, request: Request) -> Int64Array:
        """The blocks a request could start from: full ones, and one token is left to compute."""
        return self._lookup(request, (request.seq_len - 1) // self.page_size)

    def match_whole(self, request: Request) -> Match:
        """The cached prefix of all of a request's tokens, for queue orders. Changes nothing."""
        found = self._lookup(request, request.seq_len // self.page_size)
        return Match(len(found) * self.page_size, None)

    def _lookup(self, request: Request, most: int) -> Int64Array:
        if not self.pool.caching:
            return _NONE
        return self.pool.lookup(self.contents(request, most))

    def contents(self, request: Request, blocks: int) -> Int64Array:
        """Numbers for what a request's first so many blocks hold: int64, alike for alike prefixes."""
        return self._numbers(request, blocks)[:blocks]

    def _numbers(self, request: Request, blocks: int) -> Int64Array:
        """As `contents`, for so many blocks at least."""
        chain: Chain | None = request.found
        if chain is None:
            if len(self._contents) >= self._sweep_at:
                self._contents.sweep(self.pool.found)
                self._sweep_at = 2 * len(self._contents) + self.pool.blocks
            chain = request.found = self._contents.begin(request.extra_key)
        if len(chain.numbers) < blocks:
            self._contents.extend(chain, known_tokens(request.tokens, blocks * self.page_size))
            self.pool.reach(self._contents.top)
        return chain.numbers

    def forget(self, request: Request) -> None:
        """A request ended: nobody will ask what its blocks hold."""
        if request.found is not None:
            self._contents.drop(request.found)
            request.found = None

    # -- holding ------------------------------------------------------------------------------

    def start(self, request: Request, found: Int64Array) -> None:
        """Admit a request with the blocks found for it."""
        self.pool.touch(found)
        request.row = self._free_rows.pop()
        request.blocks = array("q", found.tobytes())
        request.registered = len(found)
        request.prefix_len = len(found) * self.page_size
        request._kv_len = request.prefix_len

    def extend(self, request: Request, tokens: int) -> bool:
        """Give a request blocks for `tokens` tokens in all; False, and nothing, if they are not free."""
        new = self.blocks(tokens) - len(request.blocks)
        if new > self.pool.free:
            return False
        if new > 0:
            request.blocks.extend(array("q", self.pool.take(new)[0].tobytes()))
        return True

    def register(self, request: Request, tokens: int) -> None:
        """Let the full blocks among a request's first `tokens` tokens, all known, be found."""
        first, full = request.registered, tokens // self.page_size
        if full > first and self.pool.caching:
            contents = self.contents(request, full)[first:]
            self.pool.enter(np.array(request.blocks[first:full], dtype=np.int64), contents)
            request.registered = full

    def unregister(self, request: Request, blocks: int) -> None:
        """Let only a request's first `blocks` blocks be found: the rest was never computed."""
        self.pool.forget(np.array(request.blocks[blocks : request.registered], dtype=np.int64))
        request.registered = min(request.registered, blocks)

    def note_creation(self, request: Request) -> None:
        """At a request's first output: how many prompt tokens it was the one to enter."""
        if request.output_len == 1:
            entered = min(request.registered * self.page_size, request.prompt_len)
            request.cache_creation_tokens = max(0, entered - request.cached_tokens)

    def finish(self, request: Request) -> None:
        """Release an ended request's blocks; what can be found stays so until it is reused."""
        self.release(request)

    def release(self, request: Request) -> None:
        """Let go of everything a request holds."""
        if request.row is None:
            return
        self.pool.release(np.array(request.blocks, dtype=np.int64))
        self._free_rows.append(request.row)
        request.row = None
        request.blocks = []
        request.registered = request.prefix_len = request.extend_end = 0
        request._kv_len = 0

    # -- decode rounds ------------------------------------------------------------------------

    def extend_round(self, running: RunningBatch, *, known_ahead: int) -> None:
        """Allocate for the next decode round, and register the blocks it completes.

        Args:
            running: who decodes in it; it is planned next.
            known_ahead: 1 if the token computed in this round is known on the host when it is
                planned, so that the block it fills can be registered; 0 if it is still in flight.
        """
        if known_ahead or running.pages_needed():
            self._go_through(running, 1, known_ahead)

    def repeat_rounds(
        self, running: RunningBatch, rounds: int, *, known_ahead: int
    ) -> Callable[[], Int64Array]:
        """As many rounds as `extend_round` would take, at once.

        Args:
            running: who decodes in them; they are planned next.
            rounds: how many.
            known_ahead: as for `extend_round`.

        Returns:
            makes an array of shape (4, rounds): free, evictable, protected and, in all, evicted
            tokens as each round leaves them.
        """
        pool, size = self.pool, self.page_size
        unfindable, reusable = pool.free - pool.reusable, pool.reusable
        used, evicted_before = pool.findable - pool.reusable, pool.evicted
        passage = self._go_through(running, rounds, known_ahead)

        def gauges() -> Int64Array:
            starts, lost, full, entered = passage
            taken = starts.by_round(np.arange(starts.total)).cumsum()
            evicted = starts.by_round(np.flatnonzero(lost)).cumsum()
            found = full.by_round(np.array(entered, dtype=np.int64)).cumsum()
            return size * np.array(
                [
                    unfindable - taken + evicted,
                    reusable - evicted,
                    used + found,
                    evicted_before + evicted,
                ]
            )

        return gauges

    def _go_through(self, running: RunningBatch, rounds: int, known_ahead: int) -> _Passage:
        """Give out and enter the blocks of many rounds.

        All are given out before any is entered. That makes no difference: what is given out was free
        before, what is entered was not.
        """
        starts = full = running.crossings(rounds)
        if known_ahead:
            full = running.crossings(rounds, ahead=known_ahead)
        lost = self._take_at(starts) if starts.total else _NONE
        entered: list[int] = []
        if full.total and self.pool.caching:
            until_round = running.planned + rounds - 1 + known_ahead
            once = full.total == len(full.members)
            enter = self._enter_once if once else self._enter_repeatedly
            entered = enter(full, until_round)
        return _Passage(starts, lost, full, entered)

    def _take_at(self, starts: Crossings) -> Int64Array:
        """Give a block at each crossing; returns what each could still have been found by, or 0."""
        taken, lost = self.pool.take(starts.total)
        members = len(starts.members)
        if starts.total == members:
            for request, block in zip(starts.members, taken.tolist(), strict=True):
                request.blocks.append(block)
        else:
            for i, request in enumerate(starts.members):
                request.blocks.extend(taken[i::members].tolist())
        return lost

    def _enter_once(self, full: Crossings, until_round: int) -> list[int]:
        """Let the block that each crossing fills be found, where no member crosses twice.

        Args:
            full: the crossings.
            until_round: number of the first round whose token is not known.

        Returns:
            the crossings at which a block was entered. Not where the member had entered it ahead of
            its time, when nothing of its was in flight.
        """
        blocks, contents = array("q"), array("q")
        entered: list[int] = []
        for i, request in enumerate(full.members):
            block = request.registered
            until = self._full_blocks(request, until_round)
            if until == block:
                continue
            assert until == block + 1, f"{request}: a full block was not entered"
            request.registered = until
            blocks.append(request.blocks[block])
            contents.append(self._numbers(request, until)[block])
            entered.append(i)
        if entered:
            self.pool.enter(np.array(blocks), np.array(contents))
        return entered

    def _enter_repeatedly(self, full: Crossings, until_round: int) -> list[int]:
        """As `_enter_once`, where members may cross more than once."""
        blocks, contents = array("q"), array("q")
        entered: list[int] = []
        for i, request in enumerate(full.members):
            first, until = request.registered, self._full_blocks(request, until_round)
            crossings = range(i, full.total, len(full.members))
            ahead = len(crossings) - (until - first)  # entered before
            assert ahead >= 0, f"{request}: a full block was not entered"
            request.registered = until
            blocks.extend(request.blocks[first:until])
            contents.frombytes(self._numbers(request, until)[first:until].tobytes())
            entered += crossings[ahead:]
        if entered:
            in_order = np.array(entered).argsort()
            self.pool.enter(np.array(blocks)[in_order], np.array(contents)[in_order])
        return entered

    def _full_blocks(self, request: Request, until_round: int) -> int:
        """Blocks of a decoding request whose tokens are all known; it gets a token a round."""
        return (offset_of(request) + until_round - 1) // self.page_size

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


_NONE: Int64Array = np.zeros(0, dtype=np.int64)
