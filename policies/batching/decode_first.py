"""Decode first: one token budget a step over running and waiting requests, as vLLM's V1 scheduler.

There is no prefill or decode phase. A request needs as many tokens as it is behind, and each step hands
out tokens until the budget is used up: first to the requests that run, in the order they were
admitted, then to waiting ones. So several prompts can be in chunks at once, beside all decodes. When
a running request finds no free block, another is preempted, to be computed again later.

This module plans the step, admits, and accounts for results. Who is active is kept in
`policies.batching.active`, and their part of a step handed out in `policies.batching.grants`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from policies.admission.adapters import AdapterSlots
from policies.admission.intake import ContextIntake
from policies.batch import Batch, Mode, PrefillItem, Repetition, RoundStates
from policies.batching.active import Active
from policies.batching.base import Batching
from policies.batching.block_pressure import may_start, stays_stuck
from policies.batching.grants import Grants
from policies.batching.outcome import outcome_of
from policies.batching.step import Step
from policies.kv.block_memory import BlockMemory
from policies.orders.fcfs import FCFS
from policies.registry import BATCHINGS
from policies.request import FinishReason, State

if TYPE_CHECKING:
    from policies.batch import DecodeRows
    from policies.config import PolicyConfig
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
        self.active = Active()
        self.announced: list[Request] = []  # ends that the last planning took note of
        self._unannounced: list[Request] = []
        # who was first to be admitted and did not fit, and its hits
        self._stuck: tuple[Request, int] | None = None

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
        self._grants = Grants(self.kv, self.active)
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
        self.active.take_back(s)
        step = Step(self.max_tokens, self._threshold(s))
        s.running.leave_finishing()
        if not self._grants.grant_round(s, step):
            self._grants.grant_one_by_one(s, step)
        if self._always_by_priority(s):
            s.waiting.sort(key=lambda r: (s.priorities.rank(r), r.arrival_ns, r.id))
        if s.waiting and not step.preempted:
            self._admit_waiting(s, step)
        items = self._items(step) if step.granted else ()
        if items:
            mode = Mode.EXTEND if step.rows is None else Mode.MIXED
        else:
            mode = Mode.EMPTY if step.rows is None else Mode.DECODE
        return Batch(s.iteration, mode, items, step.rows)

    @staticmethod
    def _always_by_priority(s: Scheduler) -> bool:
        """Whether the queue is vLLM's own under priorities: in order before anything looks at it."""
        return s.priorities.enabled and type(s.order) is FCFS

    def _threshold(self, s: Scheduler) -> int:
        if self.threshold == 0 or (requests := len(self.active.requests) + len(s.waiting)) <= 1:
            return 0
        return max(self.threshold, self.max_tokens // requests) if self.adaptive else self.threshold

    def _most_active(self, s: Scheduler) -> int:
        """Requests that may run at once, in vLLM's sense."""
        return s.max_running if self.max_active is None else min(self.max_active, s.max_running)

    def _admit_waiting(self, s: Scheduler, step: Step) -> None:
        """Admit from the head of the queue until the budget is used up or someone does not fit."""
        most = self._most_active(s)
        if step.budget <= 0 or len(self.active.requests) >= most:
            return
        if not self._always_by_priority(s):
            s.arrange_waiting()
        adapters = AdapterSlots(s.config.max_loras_per_batch, base_takes_slot=False)
        adapters.hold(step.granted, step.rows.requests if step.rows else ())
        admitted: list[Request] = []
        for request in adapters.let_through(s.waiting):
            if step.budget <= 0 or len(self.active.requests) >= most:
                break
            found = self.kv.lookup(request)
            hit = len(found) * self.kv.page_size
            share = step.share(request.seq_len - hit)
            if not self.chunked and share > step.budget:
                break
            tokens = min(share, step.budget)
            reach = max(hit + tokens, request.seq_len) if self.reserve_whole else hit + tokens
            spare = int(self.watermark * (self.kv.pool.blocks + 1)) if self.active.requests else 0
            if not may_start(self.kv, found, reach, spare):
                if not admitted and self.reserve_whole:
                    self._stuck = request, len(found)
                break
            if request.retractions == 0:
                request.cached_tokens = hit
            self.kv.start(request, found)
            self.kv.extend(request, request.kv_len + tokens)
            step.grant(self.kv, request, tokens)
            self.active.admit(request)
            adapters.hold((request,))
            admitted.append(request)
        if admitted:
            s.leave_queue(admitted)

    def _items(self, step: Step) -> tuple[PrefillItem, ...]:
        """The prompts' shares, accounted; those that reach their end decode from the next step on."""
        items = []
        for request, tokens in step.granted.items():
            if request not in self.active.prefilling:
                continue
            start = request.kv_len
            request._kv_len = request.prefix_len = start + tokens  # the scheduler keeps lengths
            last = start + tokens == request.seq_len
            if last:
                self.active.joining.append(request)
            assert request.row is not None
            items.append(PrefillItem(request, request.row, start, tokens, last, request.epoch))
        return tuple(items)

    # -- many rounds at once ------------------------------------------------------------------

    def repeatable(self, s: Scheduler, at_most: int) -> int:
        """See `Batching.repeatable`."""
        if self._unannounced or not self.active.all_decode():
            return 0
        if len(s.running) > self.max_tokens or not self._queue_is_shut(s):
            return 0
        free = self.kv.pool.free
        if s.running.pages_within(at_most) <= free:
            return at_most
        most = min(at_most, 65_536)  # that takes memory
        return s.running.rounds_leaving(0, free * self.kv.page_size, most)

    def _queue_is_shut(self, s: Scheduler) -> bool:
        """Whether planning will not look at the queue until someone leaves."""
        if not s.waiting or len(self.active.requests) >= self._most_active(s):
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
            for request in self.active.sitting_out:
                self.kv.register(request, request.seq_len - 1)
        for request in self.active.in_order(ends):
            if request.state is State.WAITING:  # preempted, its last token still came
                s.leave_queue([request])
            elif s.overlapped:
                self.kv.register(request, request.seq_len - 1)
            s.finish(request, ends[request])

    # -- ends ---------------------------------------------------------------------------------

    def abort(self, s: Scheduler, request: Request) -> None:
        """See `Batching.abort`: at once; a result in flight is ignored."""
        s.end_running(request, FinishReason.ABORT)

    def on_end(self, request: Request) -> None:
        """See `Batching.on_end`: an end is announced in one more step."""
        self.active.end(request)
        self.kv.forget(request)
        if request.finish_reason is not FinishReason.REFUSED:
            self._unannounced.append(request)

    def has_news(self) -> bool:
        """See `Batching.has_news`."""
        return bool(self._unannounced)

    def sits_out(self, request: Request) -> bool:
        """See `Batching.sits_out`."""
        return request in self.active.sitting_out
