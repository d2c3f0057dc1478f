"""Decode first: one token budget a step over running and waiting requests, as vLLM's V1 scheduler.

There is no prefill or decode phase. A request needs as many tokens as it is behind, and each step hands
out tokens until the budget is used up: first to the requests that run, in the order they were
admitted, then to waiting ones. So several prompts can be in chunks at once, beside all decodes. When
a running request finds no free block, another is preempted, to be computed again later.

Most steps decode everyone that runs, and then go on with prompts; they take one round of the running
batch. Only where blocks or budget run out are running requests gone through one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from policies.admission.adapters import AdapterSlots
from policies.admission.intake import ContextIntake
from policies.batch import Batch, Mode, PrefillItem, Repetition, RoundStates
from policies.batching.base import Batching
from policies.batching.block_pressure import may_start, round_fits, stays_stuck, victim_of
from policies.batching.outcome import outcome_of
from policies.batching.step import Step
from policies.kv.block_memory import BlockMemory
from policies.orders.fcfs import FCFS
from policies.registry import BATCHINGS
from policies.request import FinishReason, State

if TYPE_CHECKING:
    from policies.batch import DecodeRows
    from policies.config import PolicyConfig
    from policies.kv.blocks import Int64Array
    from policies.kv.pool import KVPool
    from policies.request import Request
    from policies.scheduler import Scheduler


@BATCHINGS.register("decode-first")
class DecodeFirst(Batching):
    """See the module and `Batching`. Options are named as vLLM's.

    Args:
        max_num_batched_tokens: tokens a step; auto goes by the device, as in vLLM.
        max_num_active_seqs: requests that may run at once, if less than `max_running_requests`.
        long_prefill_token_threshold: most tokens one request gets in a step; 0 for no limit. It does not
            hold for a request that is alone.
        long_prefill_token_threshold_adaptive: raise that limit to an even share of the step.
        enable_chunked_prefill: whether a waiting request may be admitted with part of its tokens.
        scheduler_reserve_full_isl: admit only what would fit whole, chunked or not.
        watermark: share of the blocks kept free when admitting beside running requests.
        reuse_unhashed_first: reuse freed blocks without contents before others; vLLM 0.19 did not.
    """

    caches = ("blocks", "none")
    foresees_departures = True

    def __init__(
        self,
        *,
        max_num_batched_tokens: int | Literal["auto"] = "auto",
        max_num_active_seqs: int | None = None,
        long_prefill_token_threshold: int = 0,
        long_prefill_token_threshold_adaptive: bool = False,
        enable_chunked_prefill: bool = True,
        scheduler_reserve_full_isl: bool = True,
        watermark: float = 0.0,
        reuse_unhashed_first: bool = True,
    ) -> None:
        for name, value, least in (
            ("max_num_batched_tokens", max_num_batched_tokens, 1),
            ("max_num_active_seqs", max_num_active_seqs, 1),
            ("long_prefill_token_threshold", long_prefill_token_threshold, 0),
        ):
            if isinstance(value, int) and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if not 0 <= watermark < 1:
            raise ValueError(f"watermark is {watermark}; it must be at least 0 and below 1")
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_active = max_num_active_seqs
        self.threshold = long_prefill_token_threshold
        self.adaptive = long_prefill_token_threshold_adaptive
        self.chunked = enable_chunked_prefill
        self.reserve_whole = scheduler_reserve_full_isl
        self.watermark = watermark
        self.unhashed_first = reuse_unhashed_first
        self.active: dict[Request, None] = {}  # running in vLLM's sense, in order of admission
        self.announced: list[Request] = []  # ends that the last planning took note of
        self._unannounced: list[Request] = []
        self._prefilling: dict[Request, None] = {}  # active, not yet decoding
        self._joining: list[Request] = []  # their prefill ended in the last step
        self._sitting_out: dict[Request, None] = {}  # decode, but got no token in the last step
        self._rested: list[Request] = []  # back from sitting out, in this step
        # who was first to be admitted and did not fit, and its hits
        self._stuck: tuple[Request, int] | None = None
        self._admissions = 0
        self._rank: dict[Request, int] = {}  # by admission: the order within a batch

    # -- what it is built with ----------------------------------------------------------------

    @property
    def max_tokens(self) -> int:
        """Tokens a step."""
        if self.max_num_batched_tokens == "auto":
            raise TypeError("max_num_batched_tokens is 'auto'; the world must put in a number")
        return self.max_num_batched_tokens

    def make_memory(
        self, config: PolicyConfig, capacity: int, rows: int, pool: KVPool | None
    ) -> BlockMemory:
        """See `Batching.make_memory`. Blocks always have numbers: their order decides reuse."""
        if pool is not None:
            raise TypeError("decode-first numbers its own blocks; give it no pool")
        self.kv = BlockMemory(
            capacity,
            config.page_size,
            rows,
            caching=config.cache == "blocks",
            unhashed_first=self.unhashed_first,
        )
        return self.kv

    def make_intake(self, config: PolicyConfig, capacity: int) -> ContextIntake:
        """See `Batching.make_intake`."""
        limit = config.context_limit or capacity
        if limit > capacity and not config.accidents.context_beyond_pool:
            raise ValueError(
                f"context_limit {limit} is above the {capacity} tokens that the KV pool holds: a "
                "request that grew so long could never go on; lower it, or enlarge the pool"
            )
        if self.max_tokens < limit and not self.chunked:
            raise ValueError(
                f"without chunked prefill max_num_batched_tokens ({self.max_tokens}) must be at "
                f"least the context limit ({limit}), or longer prompts could never be admitted"
            )
        return ContextIntake(limit)

    # -- planning -----------------------------------------------------------------------------

    def next_batch(self, s: Scheduler) -> Batch | None:
        """See `Batching.next_batch`. With work left but nothing to hand out, the batch is empty."""
        self.announced, self._unannounced = self._unannounced, []
        if not s.live and not self.announced:
            return None
        self._stuck = None
        self._take_back(s)
        step = Step(self.max_tokens, self._threshold(s))
        s.running.leave_finishing()
        if not self._grant_round(s, step):
            self._grant_one_by_one(s, step)
        if s.priorities.enabled and type(s.order) is FCFS:  # vLLM's own: always in order
            s.waiting.sort(key=lambda r: (s.priorities.rank(r), r.arrival_ns, r.id))
        if s.waiting and not step.preempted:
            self._admit_waiting(s, step)
        items = self._items(step) if step.granted else ()
        if items:
            mode = Mode.EXTEND if step.rows is None else Mode.MIXED
        else:
            mode = Mode.EMPTY if step.rows is None else Mode.DECODE
        return Batch(s.iteration, mode, items, step.rows)

    def _take_back(self, s: Scheduler) -> None:
        """Those whose prefill has ended, or who sat out the last step, decode from now on."""
        self._rested = list(self._sitting_out)
        if not (self._joining or self._rested):
            return
        back = [r for r in self._joining if r.state is State.PREFILL] + self._rested
        self._joining.clear()
        self._sitting_out.clear()
        for request in back:
            self._prefilling.pop(request, None)
        s.join_running(back)
        rank = self._rank.__getitem__
        newest = list(map(rank, s.running.requests[-len(back) - 1 :]))  # and who was last
        if newest != sorted(newest):  # mostly they are the last admitted
            s.running.keep(sorted(s.running, key=rank))

    def _threshold(self, s: Scheduler) -> int:
        if self.threshold == 0 or (requests := len(self.active) + len(s.waiting)) <= 1:
            return 0
        return max(self.threshold, self.max_tokens // requests) if self.adaptive else self.threshold

    def _grant_round(self, s: Scheduler, step: Step) -> bool:
        """The common case: all that runs decodes, then prompts go on, and there is room for all."""
        decodes = len(s.running)
        shares = self._shares_of_prompts(s, step, step.budget - decodes)
        if shares is None or decodes > step.budget or not round_fits(self.kv, s.running, shares):
            return False
        if decodes:
            step.budget -= decodes
            self.kv.extend_round(s.running, known_ahead=0 if s.overlapped else 1)
            step.rows = s.running.advance()
            for request in self._rested:  # nothing of theirs is in flight: all is known
                self.kv.register(request, request.seq_len)
        for request, tokens in shares:
            self.kv.extend(request, request.kv_len + tokens)
            step.grant(self.kv, request, tokens)
        return True

    def _shares_of_prompts(
        self, s: Scheduler, step: Step, budget: int
    ) -> list[tuple[Request, int]] | None:
        """What prompts in chunks get once all decodes have theirs; None if some come before a decode."""
        first = next(iter(self._prefilling), None)
        if first is None:
            return []
        if self._rested or (s.running and self._rank[s.running.requests[-1]] > self._rank[first]):
            return None
        shares = []
        for request in self._prefilling:
            if budget <= 0:
                break
            tokens = min(step.share(request.seq_len - request.kv_len), budget)
            shares.append((request, tokens))
            budget -= tokens
        return shares

    def _grant_one_by_one(self, s: Scheduler, step: Step) -> None:
        """Hand out tokens to running requests in order, preempting where blocks run out."""
        decoding = set(s.running)
        order = list(self.active)
        at = 0
        while at < len(order) and step.budget > 0:
            request = order[at]
            if request in self._prefilling:
                behind = request.seq_len - request.kv_len
            elif request in decoding:
                behind = 1
            else:  # its last token is in flight
                at += 1
                continue
            tokens = min(step.share(behind), step.budget)
            fits = self.kv.extend(request, request.kv_len + tokens)
            while not fits:
                victim = victim_of(s, order)
                at -= order.index(victim) < at
                order.remove(victim)
                self._preempt(s, victim, step)
                if victim is request:
                    break
                fits = self.kv.extend(request, request.kv_len + tokens)
            if not fits:
                break  # it was preempted itself: nobody behind it gets anything (see the spec)
            step.grant(self.kv, request, tokens)
            at += 1
        out = [request for request in s.running if request not in step.granted]
        self._sitting_out.update(dict.fromkeys(out))
        s.running.leave(out)
        if s.running:
            step.rows = s.running.advance()

    def _preempt(self, s: Scheduler, victim: Request, step: Step) -> None:
        """Take everything from a running request; it waits again, ahead of the others."""
        step.preempted = True
        step.budget += step.granted.pop(victim, 0)
        if victim in step.registered and not s.config.accidents.planned_blocks_are_hits:
            self.kv.unregister(victim, step.registered[victim])
        self._forget(victim)
        s.give_up(victim)
        s.preempted.append(victim)
        s.enqueue(victim, front=True)

    def _most_active(self, s: Scheduler) -> int:
        """Requests that may run at once, in vLLM's sense."""
        return s.max_running if self.max_active is None else min(self.max_active, s.max_running)

    def _admit_waiting(self, s: Scheduler, step: Step) -> None:
        """Admit from the head of the queue until the budget is used up or someone does not fit."""
        most = self._most_active(s)
        if step.budget <= 0 or len(self.active) >= most:
            return
        if not (s.priorities.enabled and type(s.order) is FCFS):
            s.arrange_waiting()
        adapters = AdapterSlots(s.config.max_loras_per_batch, base_takes_slot=False)
        adapters.hold(step.granted, step.rows.requests if step.rows else ())
        admitted: list[Request] = []
        for request in adapters.let_through(s.waiting):
            if step.budget <= 0 or len(self.active) >= most:
                break
            found = self.kv.lookup(request)
            hit = len(found) * self.kv.page_size
            share = step.share(request.seq_len - hit)
            if not self.chunked and share > step.budget:
                break
            tokens = min(share, step.budget)
            reach = max(hit + tokens, request.seq_len) if self.reserve_whole else hit + tokens
            spare = int(self.watermark * (self.kv.pool.blocks + 1)) if self.active else 0
            if not may_start(self.kv, found, reach, spare):
                if not admitted and self.reserve_whole:
                    self._stuck = request, len(found)
                break
            if request.retractions == 0:
                request.cached_tokens = hit
            self._admit(step, request, found, tokens)
            adapters.hold((request,))
            admitted.append(request)
        if admitted:
            s.leave_queue(admitted)

    def _admit(self, step: Step, request: Request, found: Int64Array, tokens: int) -> None:
        self.kv.start(request, found)
        self.kv.extend(request, request.kv_len + tokens)
        step.grant(self.kv, request, tokens)
        request.state = State.PREFILL
        self.active[request] = self._prefilling[request] = None
        self._admissions = self._rank[request] = self._admissions + 1

    def _items(self, step: Step) -> tuple[PrefillItem, ...]:
        """The prompts' shares, accounted; those that reach their end decode from the next step on."""
        items = []
        for request, tokens in step.granted.items():
            if request not in self._prefilling:
                continue
            start = request.kv_len
            request._kv_len = request.prefix_len = start + tokens  # the scheduler keeps lengths
            last = start + tokens == request.seq_len
            if last:
                self._joining.append(request)
            assert request.row is not None
            items.append(PrefillItem(request, request.row, start, tokens, last, request.epoch))
        return tuple(items)

    # -- many rounds at once ------------------------------------------------------------------

    def repeatable(self, s: Scheduler, at_most: int) -> int:
        """See `Batching.repeatable`."""
        busy = self._prefilling or self._joining or self._sitting_out or self._unannounced
        if busy or len(s.running) > self.max_tokens or not self._queue_is_shut(s):
            return 0
        free = self.kv.pool.free
        if s.running.pages_within(at_most) <= free:
            return at_most
        most = min(at_most, 65_536)  # that takes memory
        return s.running.rounds_leaving(0, free * self.kv.page_size, most)

    def _queue_is_shut(self, s: Scheduler) -> bool:
        """Whether planning will not look at the queue until someone leaves."""
        if not s.waiting or len(self.active) >= self._most_active(s):
            return True
        stuck = self._stuck is not None and stays_stuck(s, self.kv, *self._stuck)
        return stuck or len(s.running) == self.max_tokens

    def repeat(self, s: Scheduler, batch: Batch, rounds: int) -> Repetition:
        """See `Batching.repeat`. Blocks are handed out and entered in the order of the rounds."""
        ratio, ahead = s.ratio.value, 0 if s.overlapped else 1
        gauges = self.kv.repeat_rounds(s.running, rounds, known_ahead=ahead)
        s.running.repeat(rounds)
        return Repetition(batch, rounds, lambda: RoundStates(ratio, *gauges().tolist()))

    # -- results ------------------------------------------------------------------------------

    def commit(self, s: Scheduler, batch: Batch, stops: set[int]) -> tuple[Request, ...]:
        """See `Batching.commit`. A token for a request preempted meanwhile counts all the same."""
        sampled, ends, dropped = outcome_of(s, batch, stops)
        for request in sampled:
            self.kv.note_creation(request)
        self._settle(s, ends)
        return tuple(dropped)

    def end_rows(self, s: Scheduler, rows: DecodeRows, stopped: set[Request]) -> None:  # noqa: ARG002
        """See `Batching.end_rows`."""
        self._settle(s, dict.fromkeys(stopped, FinishReason.STOP))

    def _settle(self, s: Scheduler, ends: dict[Request, FinishReason]) -> None:
        """Let blocks that the result completes be found, then end whom it ends, in batch order."""
        if s.overlapped:
            for request in self._sitting_out:
                self.kv.register(request, request.seq_len - 1)
        for request in sorted(ends, key=self._rank.__getitem__):
            if request.state is State.WAITING:  # preempted, its last token still came
                s.waiting.remove(request)
            elif s.overlapped:
                self.kv.register(request, request.seq_len - 1)
            s.finish(request, ends[request])

    # -- ends ---------------------------------------------------------------------------------

    def abort(self, s: Scheduler, request: Request) -> None:
        """See `Batching.abort`: at once; a result in flight is ignored."""
        s.end_running(request, FinishReason.ABORT)

    def on_end(self, request: Request) -> None:
        """See `Batching.on_end`: an end is announced in one more step."""
        self._forget(request)
        self.kv.forget(request)
        self._rank.pop(request, None)
        if request.finish_reason is not FinishReason.REFUSED:
            self._unannounced.append(request)

    def _forget(self, request: Request) -> None:
        self.active.pop(request, None)
        self._prefilling.pop(request, None)
        self._sitting_out.pop(request, None)

    def has_news(self) -> bool:
        """See `Batching.has_news`."""
        return bool(self._unannounced)

    def sits_out(self, request: Request) -> bool:
        """See `Batching.sits_out`."""
        return request in self._sitting_out
