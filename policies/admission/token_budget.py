"""The token budget of one prefill round: who still fits (SGLang 0.5.23's PrefillAdder).

A round may compute so many tokens (`max_prefill_tokens`, `chunked_prefill_size`), and memory must
hold what is admitted: the tokens computed now, and a share of those that running and admitted
requests are expected to produce. Memory is read live, because each admission locks a prefix that was
evictable a moment before, and so shrinks it.

It does not know how many tokens a request will produce; the new-token ratio guesses.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING

from policies.running import RunningBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from policies.accidents import Accidents
    from policies.cache.base import Match
    from policies.kv.memory import KVMemory
    from policies.request import Request

CLIP_MAX_NEW_TOKENS = 4096
"""At most so many of a request's output tokens are counted ahead."""


class Verdict(StrEnum):
    """Whether the next candidate may still be tried."""

    CONTINUE = "CONTINUE"
    NO_TOKEN = "NO_TOKEN"  # noqa: S105 - memory is spoken for
    OTHER = "OTHER"  # this round computes enough already


def _remaining(running: Iterable[Request]) -> Iterable[tuple[Request, int]]:
    """Requests with the output tokens each may still produce; of a running batch, all at once."""
    if isinstance(running, RunningBatch):
        return zip(running.requests, running.remaining_tokens(), strict=True)
    return ((request, request.remaining_tokens) for request in running)


class TokenBudget:
    """What is left of one round's budget, in tokens, and what it went to.

    Args:
        memory: the KV memory, read live.
        running: the requests that decode.
        ratio: the new-token ratio.
        max_prefill_tokens: tokens computed in a round without chunking; the first request may exceed it.
        chunk: tokens computed in a round with chunking; None for no chunking.
        decode_tokens: decode rows that share the round.
        max_requests: requests admitted in a round, or None.
        accidents: see `policies.accidents`.
    """

    def __init__(
        self,
        memory: KVMemory,
        running: Iterable[Request],
        ratio: float,
        *,
        max_prefill_tokens: int,
        chunk: int | None,
        accidents: Accidents,
        decode_tokens: int = 0,
        max_requests: int | None = None,
    ) -> None:
        self.memory = memory
        self.page_size = memory.page_size
        self.ratio = ratio
        self.admitted: list[Request] = []
        self.chunked: Request | None = None
        self.left_input = max_prefill_tokens - decode_tokens
        self.left_chunk = None if chunk is None else chunk - decode_tokens
        self.may_chunk_another = True
        self._max_requests = max_requests
        self._accidents = accidents
        self._running = running
        self._claimed = decode_tokens
        self._charges = [decode_tokens]  # what is reserved besides what running requests may need
        self._reserved: float | None = None  # in all, once it was needed
        most = running.remaining_at_most() if isinstance(running, RunningBatch) else inf
        self._reserved_at_most = decode_tokens + most
        self._endings: list[tuple[float, int]] | None = None

    def _share(self, request: Request) -> float:
        """The share of a request's remaining tokens to reserve: all if it is bound to use them."""
        return 1.0 if request.ignore_eos else self.ratio

    def expected_tokens(self, request: Request) -> float:
        """Output tokens a running request is expected to need memory for."""
        return min(request.remaining_tokens, CLIP_MAX_NEW_TOKENS) * self._share(request)

    def expected_need(self, request: Request, prefix: int) -> int:
        """Tokens of memory a waiting request would need, given its cached prefix."""
        return request.seq_len - prefix + min(request.max_new_tokens, CLIP_MAX_NEW_TOKENS)

    def forget(self, request: Request) -> None:
        """A running request was preempted: nothing need be expected of it."""
        self._reserved = self.reserved - self.expected_tokens(request)

    @property
    def reserved(self) -> float:
        """Tokens of memory that are needed, or expected to be."""
        if self._reserved is None:
            expected: float = 0
            ratio, most = self.ratio, CLIP_MAX_NEW_TOKENS
            for request, remaining in _remaining(self._running):
                # one by one, and then the charges: float sums depend on their order
                clipped = min(remaining, most)
                expected += clipped if request.ignore_eos else clipped * ratio
            self._reserved = self._charges[0] + expected
            for charge in self._charges[1:]:
                self._reserved += charge
        return self._reserved

    @property
    def left_total(self) -> float:
        """Tokens of memory nobody needs or is expected to."""
        return self.memory.available - self.reserved

    def _lacks(self, tokens: int) -> bool:
        """Whether `left_total` is no more than that; mostly it need not be added up to know."""
        if self.memory.available - self._reserved_at_most > tokens:
            return False
        return self.left_total <= tokens

    @property
    def left_now(self) -> int:
        """Tokens of memory not needed in this round."""
        return self.memory.available - self._claimed

    def verdict(self) -> Verdict:
        """Whether another candidate may be tried."""
        available = self.memory.available
        if available <= self._reserved_at_most and self.left_total <= 0:
            return Verdict.NO_TOKEN
        if available <= self._claimed:
            return Verdict.NO_TOKEN
        if self.left_input <= 0 or (self.left_chunk is not None and self.left_chunk <= 0):
            return Verdict.OTHER
        return Verdict.CONTINUE

    def _take(self, request: Request, end: int, match: Match | None, new_tokens: int) -> None:
        if match is not None:
            self.memory.hold(request, match)
        request.extend_end = end
        self.admitted.append(request)
        page = self.page_size
        pages = -(-(end - request.prefix_len) // page) * page
        charge = pages + page + new_tokens
        self._charges.append(charge)
        self._reserved_at_most += charge
        if self._reserved is not None:
            self._reserved += charge
        self._claimed += pages + page
        self.left_input -= pages
        if self.left_chunk is not None:
            self.left_chunk -= pages

    def add_chunk(self, request: Request, limit: int | None = None) -> bool:
        """Go on with the request that is being chunked, whatever memory is expected to be needed.

        Args:
            request: the request, its prefix what was computed so far.
            limit: tokens it may take, if less than the budget.

        Returns:
            whether it got on. It does not when decoding has used all memory up meanwhile (there
            SGLang ends with an error).
        """
        assert self.left_chunk is not None
        room = self.left_chunk if limit is None else min(limit, self.left_chunk)
        take = min(room, int(self.left_total)) if self._lacks(room) else room
        if take <= 0:
            last_page = self.memory.ceil(request.prefix_len) - request.prefix_len
            take = min(room, last_page + self.memory.available)
        if take <= 0:
            return False
        whole = request.seq_len - request.prefix_len
        if whole > take:
            self.chunked = request
            self._take(request, request.prefix_len + take, None, 0)
        else:
            new_tokens = min(request.max_new_tokens, CLIP_MAX_NEW_TOKENS)
            self._take(request, request.seq_len, None, new_tokens)
        return True

    def add(self, request: Request, match: Match) -> Verdict:
        """Admit a waiting request if it fits, whole or its first chunk.

        Args:
            request: the candidate.
            match: its cached prefix; it is locked for good if the request is admitted.

        Returns:
            whether the next candidate may be tried. The candidate itself was admitted if it is
            the last of `admitted`; it can be even when the verdict is not CONTINUE.
        """
        if self._max_requests is not None and len(self.admitted) >= self._max_requests:
            return Verdict.OTHER
        if request.ignore_eos and not self.memory.cache.shares:
            return self._add_uncached(request, match)
        cache = self.memory.cache
        cache.lock(match.node)  # what it would hold cannot be evicted to make room for it
        verdict = self._add_locked(request, match)
        if not self.admitted or self.admitted[-1] is not request:
            cache.unlock(match.node)
        return verdict

    def _add_locked(self, request: Request, match: Match) -> Verdict:
        end, page = request.seq_len, self.page_size
        extend = end - match.length
        remaining = max(request.remaining_tokens, 0)
        if self._lacks(extend + min(remaining, CLIP_MAX_NEW_TOKENS) + page):
            return Verdict.NO_TOKEN
        pages = -(-extend // page) * page
        if self.left_chunk is None:
            if self.admitted and pages >= self.left_input:
                return Verdict.OTHER
        elif pages > self.left_chunk:
            return self._add_first_chunk(request, match)
        asked = request.max_new_tokens if self._accidents.charge_forgets_outputs else remaining
        self._take(request, end, match, min(asked, CLIP_MAX_NEW_TOKENS))
        return self.verdict()

    def _add_first_chunk(self, request: Request, match: Match) -> Verdict:
        assert self.left_chunk is not None
        extend = self.memory.floor(self.left_chunk)
        end = self.memory.floor(match.length + extend)
        if extend <= 0 or end <= match.length or not self.may_chunk_another:
            return Verdict.OTHER
        self._take(request, end, match, 0)
        self.chunked = request
        return self.verdict()

    # -- without a cache, for requests whose length is certain ---------------------------------

    def _add_uncached(self, request: Request, match: Match) -> Verdict:
        """Admit a request that ignores EOS if memory lasts until each request in turn has ended.

        The endings of running and admitted requests free memory; walking through them in order shows
        whether the one token a step that all others still need is there every time. A request that has
        the whole pool to itself is spared that: the intake has seen to it that it fits, but not to the
        walk's reserve, for want of which SGLang leaves it waiting for ever.
        """
        extend = request.seq_len
        need = self.memory.ceil(extend) + self.page_size
        if need > min(self.left_now, self.left_total):
            return Verdict.NO_TOKEN
        endings = self._endings_with(request)
        if self.left_now < self.memory.capacity and not self._lasts(endings, need):
            return Verdict.NO_TOKEN
        if self.left_chunk is None or extend <= self.left_chunk:
            self._take(request, extend, match, min(request.max_new_tokens, CLIP_MAX_NEW_TOKENS))
        elif self.left_chunk <= 0 or not self.may_chunk_another:
            return Verdict.OTHER
        else:
            self._take(request, self.left_chunk, match, 0)
            self.chunked = request
        return self.verdict()

    def _lasts(self, endings: Sequence[tuple[float, int]], need: int) -> bool:
        """Whether memory, less what a candidate needs now, lasts through all endings."""
        freed = 0
        for i, (left, occupied) in enumerate(endings):
            remaining = len(endings) - i
            if self.left_now - need + freed - left * remaining <= remaining:
                return False
            freed += occupied
        return True

    def _endings_with(self, request: Request) -> list[tuple[float, int]]:
        """(tokens left, tokens occupied) of all that hold memory and the candidate, by tokens left.

        The candidates before stay in the list, admitted or not.
        """
        if self._endings is None:
            known = (request, *self._running, *self.admitted)
            self._endings = sorted(
                (ending for ending in map(self._ending, known) if ending[0] > 0),
                key=lambda ending: ending[0],
            )
            return self._endings
        new = self._ending(request)
        if new[0] <= 0:
            return self._endings
        at = bisect_left(self._endings, new[0], key=lambda ending: ending[0])
        if at == len(self._endings) and self._accidents.unsorted_last_reserve:
            at = max(0, at - 1)
        self._endings.insert(at, new)
        return self._endings

    def _ending(self, request: Request) -> tuple[float, int]:
        left = request.max_new_tokens * self._share(request) - request.output_len
        return left, request.seq_len
