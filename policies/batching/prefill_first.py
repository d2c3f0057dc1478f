"""Prefill first, with chunked prefill: SGLang 0.5.23's way to fill a step.

Whenever waiting requests fit, a step computes prompt tokens only; decode steps run when there is
nothing to prefill. A prompt that does not fit into a step's budget is cut into chunks; at most one
request is in that state at any time, and goes ahead of the queue.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from policies.admission.adapters import AdapterSlots
from policies.admission.intake import PoolIntake
from policies.admission.token_budget import TokenBudget, Verdict
from policies.batch import Batch, Mode, PrefillItem, Repetition
from policies.batching.base import Batching
from policies.batching.retracting import retract
from policies.cache.none import NoCache
from policies.cache.radix import RadixCache
from policies.foresight import states_of
from policies.kv.memory import KVMemory
from policies.kv.pool import CountingPool
from policies.registry import BATCHINGS, EVICTIONS
from policies.request import FinishReason, Request, State

if TYPE_CHECKING:
    from policies.batch import DecodeRows
    from policies.cache.base import PrefixCache
    from policies.config import PolicyConfig
    from policies.kv.pool import KVPool
    from policies.scheduler import Scheduler


@BATCHINGS.register("prefill-first")
class PrefillFirst(Batching):
    """See the module and `Batching`."""

    caches = ("radix", "none")
    foresees_departures = True
    shares_steps = False  # whether decode rows ride along with prefill

    def __init__(self) -> None:
        self._decode_only = 0  # steps left without prefill
        self._refreshable = 0  # times the queue was arranged without a look at the cache
        self._stale_tokens = 0  # prefill tokens of the batch the running batch grew from
        self._aborting: set[Request] = set()  # to end with their next result

    # -- what it is built with ----------------------------------------------------------------

    def make_memory(
        self, config: PolicyConfig, capacity: int, rows: int, pool: KVPool | None
    ) -> KVMemory:
        """See `Batching.make_memory`."""
        if pool is None:
            pool = CountingPool(capacity, config.page_size, rows)
        cache: PrefixCache = NoCache()
        if config.cache == "radix":
            eviction = EVICTIONS.create(config.eviction, config.eviction_options)
            cache = RadixCache(config.page_size, eviction, pool.free_pages)
        self.kv = KVMemory(pool, cache)
        self._counts_decode = config.accidents.hrrn_counts_decode
        return self.kv

    def make_intake(self, config: PolicyConfig, capacity: int) -> PoolIntake:
        """See `Batching.make_intake`."""
        return PoolIntake(capacity, config.page_size, config.context_limit)

    # -- planning -----------------------------------------------------------------------------

    def next_batch(self, s: Scheduler) -> Batch | None:
        """See `Batching.next_batch`."""
        if s.chunked is not None:
            self._checkpoint_chunk(s, s.chunked)
        last = s.last
        if last is not None and last.prefill:
            self._merge_last(s, last)
        due = self._decode_only == 0 or self._interval_is_over(s)
        if due and (s.waiting or s.chunked is not None):
            batch = self._prefill(s)
            if batch is not None:
                self._decode_only = s.config.prefill_decode_interval
                s.processed_tokens += batch.prefill_tokens + batch.decode_requests
                return batch
        batch = self._decode(s) if s.running.requests else None
        if self._counts_decode and batch is not None:
            s.processed_tokens += self._stale_tokens
        return batch

    # -- bringing the state up to date --------------------------------------------------------

    def _checkpoint_chunk(self, s: Scheduler, request: Request) -> None:
        """Enter what is computed of the chunked request into the cache; or end it if aborted."""
        if request.abort_requested:
            s.chunked = None
            s.end_running(request, FinishReason.ABORT)
        elif request.extend_end > request.prefix_len:
            self.kv.checkpoint(request, request.extend_end)
            request.prefix_len = request.extend_end

    def _merge_last(self, s: Scheduler, last: Batch) -> None:
        """Let the requests whose prefill was in the last step join the running batch.

        After a mixed step they stand before the rows that rode along, as the mixed batch had them.
        """
        new = [
            item.request
            for item in last.prefill
            if item.epoch == item.request.epoch
            and item.request is not s.chunked
            and item.request is not last.chunked
        ]
        mixed = last.decode is not None
        if len(new) < len(last.prefill):
            s.running.full = False
        running = s.running.requests
        if (mixed or not running) and (new or running):
            # the last batch takes the place of an empty running batch
            s.running.full = False
            self._stale_tokens = last.prefill_tokens + last.decode_requests
        s.join_running(new, front=mixed)

    def _interval_is_over(self, s: Scheduler) -> bool:
        """Whether the interval between prefill steps is cut short; else it is one step shorter now."""
        cut_short = len(s.running) < s.config.prefill_decode_interval_min_batch
        self._decode_only = 0 if cut_short else self._decode_only - 1
        return cut_short

    # -- prefill ------------------------------------------------------------------------------

    def _prefill(self, s: Scheduler) -> Batch | None:
        """A step of prompt tokens, if anything may be prefilled."""
        running = s.running
        if s.priorities.preemption or not running.requests:
            running.full = False
        if s.chunked is None:
            if running.full or not s.waiting:
                return None
            if self._places(s, 0) <= 0 and not s.priorities.preemption:
                running.full = True
                return None
        if s.waiting:
            s.arrange_waiting()
            self._refresh_waiting(s)
        budget = self._budget(s)
        if s.chunked is not None and not self._continue_chunk(s, s.chunked, budget):
            return None  # decode: what ends or is retracted makes room
        preempted = self._fill(s, budget)
        batch = None
        if budget.admitted:
            batch = self._compose(s, self._admit(s, budget.admitted, budget.chunked))
        for request in preempted:
            s.enqueue(request)
        return batch

    def _budget(self, s: Scheduler) -> TokenBudget:
        return TokenBudget(
            self.kv,
            s.running,
            s.ratio.value,
            max_prefill_tokens=s.config.max_prefill_tokens,
            chunk=s.chunk,
            accidents=s.config.accidents,
            decode_tokens=len(s.running) if self.shares_steps else 0,
            max_requests=s.config.prefill_max_requests,
        )

    def _places(self, s: Scheduler, rows_held: int) -> int:
        """Requests that may still be admitted; those counted already may hold rows."""
        return min(s.max_running - len(s.running.requests), self.kv.pool.free_rows + rows_held)

    def _refresh_waiting(self, s: Scheduler) -> None:
        """Mark what waiting requests have cached as used, now and then, lest it be evicted.

        Where the order has just looked everyone up this has happened already.
        """
        if s.order.looks_at_cache(s.waiting):
            return
        interval = s.config.waiting_refresh_interval
        due = interval and self._refreshable % interval == 0
        self._refreshable += 1
        if due and s.config.eviction == "lru":
            for request in reversed(s.waiting[: s.config.waiting_refresh_requests]):
                self.kv.match_whole(request)

    @staticmethod
    def _continue_chunk(s: Scheduler, chunked: Request, budget: TokenBudget) -> bool:
        """Compute more of the chunked request's prompt; returns whether there is memory for it."""
        limit = None
        chunk_limit = getattr(s.order, "chunk_limit", None)
        if chunk_limit is not None and budget.left_chunk is not None:
            limit = chunk_limit(chunked, s.waiting, budget.left_chunk, budget.page_size)
        return budget.add_chunk(chunked, limit)

    def _fill(self, s: Scheduler, budget: TokenBudget) -> list[Request]:
        """Admit waiting requests in queue order while they fit; returns those preempted for it."""
        preempted: list[Request] = []
        running, admitted = s.running, budget.admitted
        rows_held = len(admitted)  # by a chunked request; who waits has none
        places = self._places(s, rows_held)
        limit, adapters = s.config.max_loras_per_batch, None
        if limit is not None:
            adapters = AdapterSlots(limit, base_takes_slot=True)
            adapters.hold(running, admitted)
        if (admitted or self.shares_steps) and budget.verdict() is Verdict.OTHER:
            return preempted
        for request in s.waiting if adapters is None else adapters.let_through(s.waiting):
            if len(admitted) >= places:
                running.full = True
            if running.full:
                if not self._preempt(s, request, budget, preempted):
                    break
                places = self._places(s, rows_held)
            match = self.kv.match(request)
            request.prefix_len = match.length
            budget.may_chunk_another = budget.chunked is None
            verdict = budget.add(request, match)
            if adapters is not None:
                adapters.hold(admitted[-1:])
            if verdict is not Verdict.CONTINUE:
                if verdict is Verdict.NO_TOKEN:
                    running.full = bool(admitted or running.requests)
                break
        return preempted

    def _preempt(
        self, s: Scheduler, request: Request, budget: TokenBudget, preempted: list[Request]
    ) -> bool:
        """Preempt running requests of a worse class for a waiting one, if that makes it fit."""
        if not s.priorities.preemption:
            return False
        stale = s.config.accidents.preempt_by_stale_prefix
        prefix = request.prefix_len if stale else self.kv.match(request).length
        needed = budget.expected_need(request, prefix) - budget.left_total
        victims = s.priorities.victims(request, s.running.requests, needed, budget.expected_tokens)
        going = {id(victim) for victim in victims}
        for victim in [r for r in s.running if id(r) in going]:
            budget.forget(victim)
            s.give_up(victim)
            self.kv.make_room(len(s.running) * s.config.new_token_ratio.retract_decode_steps)
        preempted.extend(victims)
        s.preempted.extend(victims)
        return bool(victims)

    def _admit(
        self, s: Scheduler, admitted: list[Request], chunked: Request | None
    ) -> tuple[PrefillItem, ...]:
        """Give the round's prefill its rows and memory.

        Args:
            s: the scheduler.
            admitted: in batch order, each with its prefix held and `extend_end` set.
            chunked: the one of them whose prompt is not computed to its end, if any.
        """
        s.leave_queue([request for request in admitted if request.state is State.WAITING])
        s.chunked = chunked
        for request in admitted:
            request.state = State.PREFILL
            if request.row is None and request.retractions == 0:
                request.cached_tokens = request.prefix_len
        self.kv.extend(admitted)
        items = []
        for request in admitted:
            row, start = request.row, request.prefix_len
            assert row is not None
            length, samples = request.extend_end - start, request is not chunked
            items.append(PrefillItem(request, row, start, length, samples, request.epoch))
        return tuple(items)

    def _compose(self, s: Scheduler, items: tuple[PrefillItem, ...]) -> Batch:
        """The batch of a step with prefill."""
        return Batch(s.iteration, Mode.EXTEND, items, chunked=s.chunked)

    # -- decode -------------------------------------------------------------------------------

    def _decode(self, s: Scheduler) -> Batch | None:
        """A decode step of all running requests, some of them retracted if it does not fit."""
        running = s.running
        ending = running.leave_finishing()
        if ending:
            running.full = False
        if not running.requests:
            return None
        rows = self.kv.plan_round(running)
        if rows is not None:
            s.ratio.decay()
        elif ending:
            return None  # their memory comes back with the result in flight
        else:
            retract(s, self.kv)
            if not running.requests:
                return None
            rows = self.kv.plan_round(running)
            assert rows is not None, "retraction has made too little room"
        return Batch(s.iteration, Mode.DECODE, (), rows)

    # -- many rounds at once ------------------------------------------------------------------

    def repeatable(self, s: Scheduler, at_most: int) -> int:
        """See `Batching.repeatable`."""
        busy = s.chunked is not None or self._decode_only or self._aborting
        if busy or (s.waiting and not self._queue_is_shut(s)):
            return 0
        return self.kv.rounds_left(s.running, at_most)

    def at_once(self, s: Scheduler, rounds: int) -> int:
        """See `Batching.at_once`: up to the round that has to evict."""
        return self.kv.rounds_without_eviction(s.running, rounds)

    def _queue_is_shut(self, s: Scheduler) -> bool:
        """Whether planning will not look at those who wait until someone leaves."""
        return s.running.full and not s.priorities.preemption

    def repeat(self, s: Scheduler, batch: Batch, rounds: int) -> Repetition:
        """See `Batching.repeat`."""
        if self._counts_decode:
            s.processed_tokens += rounds * self._stale_tokens
        running, kv, ratio = s.running, self.kv, s.ratio
        pool, cache = kv.pool, kv.cache
        free = running.free_ahead(pool.free_tokens)
        cached = cache.evictable, cache.protected, kv.evicted_tokens
        falling = ratio.decay_by(rounds)
        pool.take_pages(running.pages_within(rounds))
        running.repeat(rounds)
        states = partial(states_of, rounds, falling, ratio.value, free, cached)
        return Repetition(batch, rounds, states)

    # -- results ------------------------------------------------------------------------------

    def commit(self, s: Scheduler, batch: Batch, stops: set[int]) -> tuple[Request, ...]:
        """See `Batching.commit`. A token for a request retracted meanwhile is dropped."""
        dropped = []
        first = 0  # of the decode rows' places among the sampling items
        for item in batch.prefill:
            if not item.samples:
                continue
            if item.request.epoch != item.epoch:
                dropped.append(item.request)
            else:
                self._commit_prefill(s, item, first in stops)
            first += 1
        rows = batch.decode
        if rows is None:
            return tuple(dropped)
        late = s.running.commit(rows)
        stopped = {rows.requests[i - first] for i in stops if i >= first} if stops else set()
        self.end_rows(s, rows, stopped.difference(late) if late else stopped)
        return (*dropped, *late)

    def _commit_prefill(self, s: Scheduler, item: PrefillItem, stop: bool) -> None:
        request, seq_len = item.request, item.start + item.length
        request._output_len += 1  # lengths are kept by the scheduler
        reason = s.reason_to_end(request, stop=stop)
        if reason is not None:
            s.finish(request, reason)
        else:
            self.kv.checkpoint(request, seq_len)
            request.prefix_len = seq_len

    def end_rows(self, s: Scheduler, rows: DecodeRows, stopped: set[Request]) -> None:
        """See `Batching.end_rows`; also ends those who are due, in batch order."""
        due = s.running.due()
        if not (stopped or due or self._aborting):
            return  # mostly nobody ends
        ends = stopped.union(due)
        if self._aborting:
            ends |= {r for r in rows.requests if r in self._aborting and r.state is State.RUNNING}
        for request in ends if len(ends) == 1 else [r for r in rows.requests if r in ends]:
            reason = s.reason_to_end(request, stop=request in stopped)
            assert reason is not None  # that is why it is here
            s.finish(request, reason)

    def abort(self, s: Scheduler, request: Request) -> None:  # noqa: ARG002
        """See `Batching.abort`: it ends with its next result; a chunk, before the next planning."""
        request.abort_requested = True
        self._aborting.add(request)

    def on_end(self, request: Request) -> None:
        """See `Batching.on_end`."""
        self._aborting.discard(request)
