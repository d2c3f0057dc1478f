"""KV memory: the pool and the prefix cache, and what each request holds of them.

Every lock and every free is here. A request's row is owned in two parts: the first `cached_len`
tokens belong to the prefix cache, which the request keeps locked; the rest, up to its last page, is
the request's own. So at any time

    free + evictable + protected + the requests' own pages = capacity.

It does not decide anything: who gives memory up, and when, is a strategy's choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.cache.base import NO_MATCH
from policies.cache.prefix import first_tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from policies.batch import DecodeRows
    from policies.cache.base import Match, PrefixCache
    from policies.kv.pool import KVPool
    from policies.request import Request
    from policies.running import RunningBatch


class KVMemory:
    """See the module.

    Args:
        pool: pages and rows.
        cache: the prefix cache, whose evictions go back to the pool.
    """

    def __init__(self, pool: KVPool, cache: PrefixCache) -> None:
        self.pool = pool
        self.cache = cache
        self.page_size = pool.page_size
        self.evicted_tokens = 0  # in all

    # -- sizes, in tokens ---------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Tokens the pool holds."""
        return self.pool.capacity

    @property
    def free(self) -> int:
        """Tokens in free pages."""
        return self.pool.free_tokens

    @property
    def evictable(self) -> int:
        """Tokens cached that no request holds."""
        return self.cache.evictable

    @property
    def protected(self) -> int:
        """Tokens cached that requests hold."""
        return self.cache.protected

    @property
    def available(self) -> int:
        """Tokens that are free or can be freed by eviction."""
        return self.pool.free_tokens + self.cache.evictable

    def ceil(self, tokens: int) -> int:
        """Rounded up to whole pages."""
        return -(-tokens // self.page_size) * self.page_size

    def floor(self, tokens: int) -> int:
        """Rounded down to whole pages."""
        return tokens // self.page_size * self.page_size

    def own_tokens(self, request: Request) -> int:
        """Tokens in the pages that a request holds outside the cache."""
        return self.ceil(request.kv_len) - request.cached_len if request.row is not None else 0

    # -- a request's way through --------------------------------------------------------------

    def match(self, request: Request) -> Match:
        """The cached prefix a prefill could start from: at least one token is left to compute."""
        return self._match(request, request.seq_len - 1)

    def match_whole(self, request: Request) -> Match:
        """The cached prefix of all of a request's tokens."""
        return self._match(request, request.seq_len)

    def _match(self, request: Request, stop: int) -> Match:
        cache = self.cache
        if not cache.shares:
            return NO_MATCH
        tokens = first_tokens(request.tokens, stop)
        match = cache.match(tokens, request.extra_key, request.found)
        request.found = match.node
        return match

    def hold(self, request: Request, match: Match) -> None:
        """The prefix a request is admitted with is its own to hold from now on, and locked already."""
        request.lock = match.node
        request.prefix_len = request.cached_len = match.length

    def extend(self, requests: Sequence[Request]) -> None:
        """Allocate for requests what they compute this round, evicting what that takes.

        Who has no row from a chunk before gets one, with its cached prefix in it.
        """
        new = 0
        for request in requests:
            new += request.extend_end - request.prefix_len
        if self.page_size > 1:  # after SGLang: as if each request could need one more page
            new += len(requests) * self.page_size
        self.make_room(new)
        pool = self.pool
        for request in requests:
            row = request.row
            if row is None:
                row = request.row = pool.take_row()
                request._kv_len = request.cached_len
                if pool.indexed and request.cached_len:
                    self._point_at_cache(request, 0)
            pool.extend(row, request._kv_len, request.extend_end)
            request._kv_len = request.extend_end

    def round_fits(self, running: RunningBatch) -> bool:
        """Whether the next decode round has memory, after evicting what can be."""
        need = running.pages_needed() * self.page_size
        self.make_room(need)
        return self.pool.free_tokens >= need

    def plan_round(self, running: RunningBatch) -> DecodeRows | None:
        """Plan the next decode round of a running batch and allocate for it, if it fits."""
        pool, size, pages = self.pool, self.page_size, running.pages_needed()
        if pool.free_tokens < pages * size and not self.round_fits(running):
            return None
        if size > 1:  # after SGLang: as if each member needed a page
            self.make_room(len(running.requests) * size)
        rows = running.advance()
        pool.extend_round(rows, pages)
        return rows

    def rounds_left(self, running: RunningBatch, at_most: int) -> int:
        """Decode rounds for which there is memory, what they can evict included."""
        if self.pool.indexed:
            return 0  # page numbers are handed out round by round
        return self._rounds_within(self.available, running, at_most)

    def rounds_without_eviction(self, running: RunningBatch, at_most: int) -> int:
        """Decode rounds for which memory is free, so that nothing is evicted."""
        return self._rounds_within(self.pool.free_tokens, running, at_most)

    def _rounds_within(self, tokens: int, running: RunningBatch, at_most: int) -> int:
        size, members = self.page_size, len(running.requests)
        if size == 1:
            return min(at_most, tokens // members)
        # each round asks for a page a member, and then takes those that are needed
        if tokens >= (running.pages_within(at_most) + members) * size:
            return at_most
        cycles = tokens // (members * size)  # in `size` rounds every member takes one page
        if not cycles:
            return 0
        rounds = min(at_most, (cycles + 1) * size)
        return 1 + running.rounds_leaving(members * size, tokens, rounds - 1)

    def make_room(self, tokens: int) -> None:
        """Evict until that many tokens are free, or nothing is left to evict."""
        shortfall = tokens - self.pool.free_tokens
        if shortfall > 0:
            self.evicted_tokens += self.cache.evict(shortfall)

    def checkpoint(self, request: Request, up_to: int) -> None:
        """Enter a request's first `up_to` tokens into the cache and go on holding them there.

        Pages that duplicate cached ones are freed. The prompt is entered once more on its own, with a
        priority one higher: that cuts the path where the outputs begin, so that they can be evicted
        before it (SGLang 0.5.23 does so). A last page that is not full stays the request's own.
        """
        if not self.cache.shares:
            return
        row, held, held_len = request.row, request.lock, request.cached_len
        assert row is not None
        size, cache, pool = self.page_size, self.cache, self.pool
        end = up_to // size * size
        pages = pool.read(row, 0, end) if pool.indexed else None
        tokens, priority = first_tokens(request.tokens, end), request.priority or 0
        length, node = cache.insert(
            tokens, pages, request.extra_key, priority, request.inserted_len, held
        )
        if length > held_len:
            pool.free_range(row, held_len, length)
        prompt_end = request.prompt_len // size * size
        if 0 < prompt_end < end:
            cache.enter_again(node, prompt_end, priority + 1)
        cache.lock(node, held)
        request.lock = node
        request.cached_len = request.inserted_len = end
        if pool.indexed and length > held_len:
            self._point_at_cache(request, held_len)

    def _point_at_cache(self, request: Request, start: int) -> None:
        """Let a request's row name the cache's pages from token `start` on."""
        assert request.row is not None
        pages = self.cache.pages(request.lock)
        self.pool.write(request.row, start, pages[start // self.page_size :])

    def finish(self, request: Request) -> None:
        """Enter what a request computed into the cache and let go of everything."""
        self.checkpoint(request, min(request.kv_len, request.seq_len))
        self.release(request)

    def release(self, request: Request) -> None:
        """Let go of everything a request holds; nothing more of it is entered into the cache."""
        if request.row is not None:
            self.pool.free_range(request.row, request.cached_len, request.kv_len)
            self.pool.give_row(request.row)
        if request.lock is not None:
            self.cache.unlock(request.lock)
        request.row = request.lock = request.found = None
        request.prefix_len = request.extend_end = 0
        request.cached_len = request.inserted_len = 0
        request._kv_len = 0

    # -- checking -----------------------------------------------------------------------------

    def check(self, holders: Iterable[Request]) -> None:
        """Raise AssertionError unless every token and row is accounted for.

        Args:
            holders: every request that may hold memory.
        """
        self.cache.check()
        holders = list(holders)
        own = sum(self.own_tokens(r) for r in holders)
        cached = self.cache.evictable + self.cache.protected
        total = self.free + cached + own
        assert total == self.capacity, (
            f"{self.free} free + {cached} cached + {own} own = {total}, capacity {self.capacity}"
        )
        rows = [r.row for r in holders if r.row is not None]
        assert len(set(rows)) == len(rows), "two requests share a row"
        assert len(rows) + self.pool.free_rows == self.pool.rows, "a row is lost"
        self._check_locks(holders)

    def _check_locks(self, holders: Sequence[Request]) -> None:
        """Every lock has a holder, and every holder's path is locked."""
        held: dict[int, int] = {}
        for request in holders:
            node = request.lock
            while node is not None and node.parent is not None:
                held[id(node)] = held.get(id(node), 0) + 1
                node = node.parent
        nodes = getattr(self.cache, "nodes", None)
        for node in nodes() if nodes is not None else ():
            assert node.locks == held.get(id(node), 0), (
                f"a node of {len(node)} tokens has {node.locks} locks, {held.get(id(node), 0)} holders"
            )
