"""Prefill first, with chunked prefill: SGLang 0.5.23's way to fill a step.

Whenever waiting requests fit, a step computes prompt tokens only; decode steps run when there is
nothing to prefill. A prompt that does not fit into a step's budget is cut into chunks; at most one
request is in that state at any time, and goes ahead of the queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.admission.token_budget import TokenBudget, Verdict
from policies.batch import Batch, Mode
from policies.registry import BATCHINGS
from policies.request import FinishReason

if TYPE_CHECKING:
    from policies.batch import PrefillItem
    from policies.request import Request
    from policies.scheduler import Scheduler


@BATCHINGS.register("prefill-first")
class PrefillFirst:
    """See the module and `Batching`."""

    shares_steps = False  # whether decode rows ride along with prefill

    def __init__(self) -> None:
        self._decode_only = 0  # steps left without prefill
        self._refreshable = 0  # times the queue was arranged without a look at the cache
        self._stale_tokens = 0  # prefill tokens of the batch the running batch grew from

    def next_batch(self, s: Scheduler) -> Batch | None:
        """See `Batching.next_batch`."""
        self._checkpoint_chunk(s)
        self._merge_last(s)
        batch = self._prefill(s) if self._prefill_is_due(s) else None
        if batch is not None:
            self._decode_only = s.config.prefill_decode_interval
            s.processed_tokens += batch.prefill_tokens + batch.decode_requests
        elif s.running:
            batch = self._decode(s)
            if batch is not None and s.config.accidents.hrrn_counts_decode:
                s.processed_tokens += self._stale_tokens
        return batch

    # -- bringing the state up to date --------------------------------------------------------

    def _checkpoint_chunk(self, s: Scheduler) -> None:
        """Enter what is computed of the chunked request into the cache; or end it if aborted."""
        request = s.chunked
        if request is None:
            return
        if request.abort_requested:
            s.chunked = None
            s.end_running(request, FinishReason.ABORT)
        elif request.extend_end > request.prefix_len:
            s.memory.checkpoint(request, request.extend_end)
            request.prefix_len = request.extend_end

    def _merge_last(self, s: Scheduler) -> None:
        """Let the requests whose prefill was in the last step join the running batch.

        After a mixed step they stand before the rows that rode along, as the mixed batch had them.
        """
        last = s.last
        if last is None or not last.prefill:
            return
        new = [
            item.request
            for item in last.prefill
            if item.epoch == item.request.epoch and item.request not in (s.chunked, last.chunked)
        ]
        mixed = last.decode is not None
        if len(new) < len(last.prefill):
            s.running.full = False
        if (mixed or not s.running) and (new or s.running):
            # the last batch takes the place of an empty running batch
            s.running.full = False
            self._stale_tokens = last.prefill_tokens + last.decode_requests
        s.join_running(new, front=mixed)

    def _prefill_is_due(self, s: Scheduler) -> bool:
        """Whether the interval between prefill steps has passed."""
        if self._decode_only == 0:
            return True
        if len(s.running) < s.config.prefill_decode_interval_min_batch:
            self._decode_only = 0
            return True
        self._decode_only -= 1
        return False

    # -- prefill ------------------------------------------------------------------------------

    def _prefill(self, s: Scheduler) -> Batch | None:
        """A step of prompt tokens, if anything may be prefilled."""
        if s.priorities.preemption or not s.running:
            s.running.full = False
        if s.chunked is None:
            if s.running.full or not s.waiting:
                return None
            if self._places(s, 0) <= 0 and not s.priorities.preemption:
                s.running.full = True
                return None
        if s.waiting:
            s.arrange_waiting()
            self._refresh_waiting(s)
        budget = self._budget(s)
        if s.chunked is not None:
            self._continue_chunk(s, s.chunked, budget)
        preempted = self._fill(s, budget)
        batch = None
        if budget.admitted:
            batch = self._compose(s, s.admit(budget.admitted, budget.chunked))
        for request in preempted:
            s.enqueue(request)
        return batch

    def _budget(self, s: Scheduler) -> TokenBudget:
        return TokenBudget(
            s.memory,
            s.running,
            s.ratio.value,
            max_prefill_tokens=s.config.max_prefill_tokens,
            chunk=s.chunk,
            accidents=s.config.accidents,
            decode_tokens=len(s.running) if self.shares_steps else 0,
            max_requests=s.config.prefill_max_requests,
        )

    @staticmethod
    def _places(s: Scheduler, rows_held: int) -> int:
        """Requests that may still be admitted; those counted already may hold rows."""
        return min(s.max_running - len(s.running), s.memory.pool.free_rows + rows_held)

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
                s.memory.match_whole(request)

    @staticmethod
    def _continue_chunk(s: Scheduler, chunked: Request, budget: TokenBudget) -> None:
        limit = None
        chunk_limit = getattr(s.order, "chunk_limit", None)
        if chunk_limit is not None and budget.left_chunk is not None:
            limit = chunk_limit(chunked, s.waiting, budget.left_chunk, budget.page_size)
        budget.add_chunk(chunked, limit)
        budget.may_chunk_another = budget.chunked is None

    def _fill(self, s: Scheduler, budget: TokenBudget) -> list[Request]:
        """Admit waiting requests in queue order while they fit; returns those preempted for it."""
        preempted: list[Request] = []
        for request in s.waiting:
            if budget.verdict() is Verdict.OTHER:
                break
            held = sum(1 for r in budget.admitted if r.row is not None)
            if len(budget.admitted) >= self._places(s, held):
                s.running.full = True
            if s.running.full and not self._preempt(s, request, budget, preempted):
                break
            match = s.memory.match(request)
            request.prefix_len = match.length
            verdict = budget.add(request, match)
            if verdict is not Verdict.CONTINUE:
                if verdict is Verdict.NO_TOKEN:
                    s.running.full = bool(budget.admitted or s.running)
                break
        return preempted

    def _preempt(
        self, s: Scheduler, request: Request, budget: TokenBudget, preempted: list[Request]
    ) -> bool:
        """Preempt running requests of a worse class for a waiting one, if that makes it fit."""
        if not s.priorities.preemption:
            return False
        stale = s.config.accidents.preempt_by_stale_prefix
        prefix = request.prefix_len if stale else s.memory.match(request).length
        needed = budget.expected_need(request, prefix) - budget.left_total
        victims = s.priorities.victims(request, s.running.requests, needed, budget.expected_tokens)
        going = {id(victim) for victim in victims}
        for victim in [r for r in s.running if id(r) in going]:
            budget.forget(victim)
            s.give_up(victim)
            s.memory.make_room(len(s.running) * s.config.new_token_ratio.retract_decode_steps)
        preempted.extend(victims)
        s.preempted.extend(victims)
        return bool(victims)

    def _compose(self, s: Scheduler, items: tuple[PrefillItem, ...]) -> Batch:
        """The batch of a step with prefill."""
        return Batch(s.iteration, Mode.EXTEND, items, chunked=s.chunked)

    # -- decode -------------------------------------------------------------------------------

    def _decode(self, s: Scheduler) -> Batch | None:
        """A decode step of all running requests, some of them retracted if it does not fit."""
        ending = s.running.leave_finishing()
        if ending:
            s.running.full = False
        if not s.running:
            return None
        if not s.memory.round_fits(s.running):
            if ending:
                return None  # their memory comes back with the result in flight
            self._retract(s)
            if not s.running:
                return None
        else:
            s.ratio.decay()
        return Batch(s.iteration, Mode.DECODE, decode=s.memory.extend_round(s.running))

    def _retract(self, s: Scheduler) -> None:
        """Take memory from running requests until the rest can decode; the last one is spared."""
        s.running.full = False
        kept = s.retraction.arrange(s.running.requests, s.priorities)
        s.running.keep(kept)  # they go on in the order of retraction
        while len(kept) > 1:
            victim = kept.pop()
            s.give_up(victim)
            s.retracted.append(victim)
            s.memory.make_room(len(kept) * s.config.new_token_ratio.retract_decode_steps)
            if s.memory.round_fits(s.running):
                break
        s.ratio.after_retraction(kept)
        for victim in s.retracted:
            s.enqueue(victim)
        if len(kept) == 1 and not s.memory.round_fits(s.running):
            s.end_running(kept[0], FinishReason.ABORT)
