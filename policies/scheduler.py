"""The scheduler: the state of every request, and the invariants over it.

It owns the waiting queue, the running batch, the chunked request and the KV memory, and makes every
change of state: a request comes in, is admitted, decodes, is retracted, ends. What to do next is
chosen by the strategies it is built from. It does no I/O, reads no clock, and knows neither how long
a step takes nor how many tokens a request will produce.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from policies.admission.intake import Intake
from policies.admission.new_token_ratio import NewTokenRatio
from policies.batch import NO_EVENTS, Batch, Events, Mode, PrefillItem
from policies.cache.none import NoCache
from policies.cache.radix import RadixCache
from policies.kv.memory import KVMemory
from policies.kv.pool import CountingPool
from policies.priority import Priorities
from policies.registry import BATCHINGS, EVICTIONS, ORDERS, RETRACTIONS
from policies.request import FinishReason, Request, State
from policies.running import RunningBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from policies.batch import DecodeRows, Inbox, StepResult
    from policies.batching.base import Batching
    from policies.cache.base import PrefixCache
    from policies.config import PolicyConfig
    from policies.kv.pool import KVPool
    from policies.orders.base import QueueOrder
    from policies.retraction import Retraction


class Gauges(NamedTuple):
    """The scheduler's state in numbers, for records. Token counts of the KV pool."""

    new_token_ratio: float
    waiting: int
    running: int
    free_tokens: int
    evictable_tokens: int
    protected_tokens: int
    evicted_tokens: int  # in all, since the start


class _View:
    """What a queue order sees of a scheduler (see `QueueView`)."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.match = scheduler.memory.match_whole

    @property
    def now(self) -> int:
        return self._scheduler.now

    @property
    def running(self) -> Sequence[Request]:
        return self._scheduler.running.requests

    @property
    def processed_tokens(self) -> int:
        return self._scheduler.processed_tokens


class Scheduler:
    """See the module.

    Args:
        config: the policy. `chunked_prefill_size` and `max_running_requests` must be numbers (or
            null), not `auto`: what auto means depends on the device.
        kv_capacity: tokens the KV pool holds.
        pool: the KV pool, for a world that needs page numbers; by default pages are only counted.
    """

    def __init__(self, config: PolicyConfig, kv_capacity: int, pool: KVPool | None = None) -> None:
        self.config = config
        self.overlapped = config.overlap == "overlapped"
        self.chunk = _resolved(config.chunked_prefill_size, "chunked_prefill_size")
        rows = _resolved(config.max_running_requests, "max_running_requests")
        assert rows is not None
        self.max_running = rows
        self.memory = _memory(config, kv_capacity, rows, pool)
        self.intake = Intake(self.memory.capacity, config.page_size, config.context_limit)

        order_name = config.order
        if config.cache == "none" and ORDERS.create(order_name, config.order_options).cache_aware:
            order_name = "fcfs"  # nothing to sort by
        options = config.order_options if order_name == config.order else {}
        self.order: QueueOrder = ORDERS.create(order_name, options)
        self.priorities = Priorities(config.priority)
        self.batching: Batching = BATCHINGS.create(config.batching, config.batching_options)
        self.retraction: Retraction = RETRACTIONS.create(config.retraction)
        self.ratio = NewTokenRatio(**config.new_token_ratio.model_dump())

        self.waiting: list[Request] = []
        self.running = RunningBatch(config.page_size)
        self.chunked: Request | None = None  # the one whose prompt is computed in part
        self.launched: deque[Batch] = deque()  # and not yet committed, oldest first
        self.last: Batch | None = None  # the batch of the round before
        self.now = 0
        self.iteration = 0
        self.processed_tokens = 0  # see the order hrrn
        self.retracted: list[Request] = []  # in this round, by retraction
        self.preempted: list[Request] = []  # in this round, by priority
        self._view = _View(self)
        self._live: dict[str, Request] = {}
        self._aborts_pending = 0
        self._ended: list[Request] = []  # not reported yet
        self._given_up: list[Request] = []  # retracted or preempted, not reported yet
        self._entries = 0

    # -- the loop's questions -----------------------------------------------------------------

    def receive(self, inbox: Inbox) -> Events:
        """Take in arrivals, then aborts. Also reports what the last planning did to requests."""
        self.now = inbox.now
        for request in inbox.arrivals:
            self._arrive(request)
        for abort_id in inbox.aborts:
            self._abort(abort_id)
        return self._events()

    def next_batch(self) -> Batch | None:
        """Plan the next step, and remember it as launched. Being asked while idle changes nothing."""
        self.retracted.clear()
        self.preempted.clear()
        if self.is_idle():
            self.last = None
            return None
        self.iteration += 1
        batch = self.batching.next_batch(self)
        self.last = batch
        if batch is not None:
            self.launched.append(batch)
        return batch

    def commit(self, batch: Batch, result: StepResult) -> Events:
        """Accept the result of the oldest launched batch."""
        if not self.launched or self.launched[0] is not batch:
            msg = f"batch {batch.iteration} committed, but it is not the oldest launched"
            raise RuntimeError(msg)
        self.launched.popleft()
        dropped = self._commit_items(batch, set(result.stops))
        return self._events(batch, dropped)

    def is_idle(self) -> bool:
        """Nothing runs, is chunked or is in flight, and nothing waits."""
        return not (self._live or self.launched)

    def on_idle(self) -> None:
        """Called each time the loop is about to sleep."""
        self.ratio.reset()

    def wake_at(self) -> int | None:
        """When a request held back is to be looked at again, in nanoseconds; None for never."""
        return None

    def nothing_left(self) -> bool:
        """The batch just launched has no item, and no request waits or runs."""
        return not self._live and self.launched[-1].mode is Mode.EMPTY

    # -- coming in ----------------------------------------------------------------------------

    def _arrive(self, request: Request) -> None:
        if request.id in self._live:
            msg = f"request id {request.id!r} is in use by a request that has not ended"
            raise ValueError(msg)
        refusal = self.intake.check(request)
        if refusal is None:
            refusal = self._queue_full(request)
        self._live[request.id] = request
        if refusal is not None:
            self._refuse(request, refusal)
        else:
            self.enqueue(request)

    def _queue_full(self, request: Request) -> str | None:
        """Why there is no place in the queue; a worse waiting request makes way under priorities."""
        limit = self.config.max_queued_requests
        if limit is None or len(self.waiting) < limit:
            return None
        full = f"the queue is full: {limit} requests wait (max_queued_requests)"
        if not self.priorities.enabled:
            return full
        worst = max(self.waiting, key=lambda r: (self.priorities.rank(r), r.entry))
        if self.priorities.rank(worst) <= self.priorities.rank(request):
            return full
        self.waiting.remove(worst)
        self._refuse(worst, full + "; it made way for a request of a better class")
        return None

    def _refuse(self, request: Request, why: str) -> None:
        request.refusal = why
        self._end(request, FinishReason.REFUSED)

    def enqueue(self, request: Request) -> None:
        """Put a request at the tail of the waiting queue."""
        self._entries += 1
        request.entry = self._entries
        request.arrival_processed_tokens = self.processed_tokens
        request.state = State.WAITING
        self.waiting.append(request)

    def _abort(self, abort_id: str) -> None:
        if self.config.accidents.abort_by_prefix:
            selected = [r for r in self._live.values() if r.id.startswith(abort_id)]
        else:
            selected = [self._live[abort_id]] if abort_id in self._live else []
        for request in selected:
            if request.state is State.WAITING:
                self.waiting.remove(request)
                self._end(request, FinishReason.ABORT)
            elif not request.abort_requested:
                request.abort_requested = True
                self._aborts_pending += 1

    # -- what strategies do -------------------------------------------------------------------

    def arrange_waiting(self) -> None:
        """Put the waiting queue into the order of the queue order."""
        order = self.order
        if self.priorities.enabled and order.by_priority:
            self.waiting = self.priorities.arrange(order, self.waiting, self._view)  # type: ignore[arg-type]
        else:
            self.waiting = order.arrange(self.waiting, self._view)

    def admit(
        self, admitted: Sequence[Request], chunked: Request | None
    ) -> tuple[PrefillItem, ...]:
        """Give the round's prefill its rows and memory.

        Args:
            admitted: in batch order, each with its prefix held and `extend_end` set.
            chunked: the one of them whose prompt is not computed to its end, if any.
        """
        leaving = {id(request) for request in admitted}
        self.waiting = [r for r in self.waiting if id(r) not in leaving]
        self.chunked = chunked
        for request in admitted:
            request.state = State.PREFILL
            if request.row is None and request.retractions == 0:
                request.cached_tokens = request.prefix_len
            self.memory.start_row(request)
        self.memory.extend(admitted)
        return tuple(self._item(request, request is not chunked) for request in admitted)

    @staticmethod
    def _item(request: Request, samples: bool) -> PrefillItem:
        assert request.row is not None
        start = request.prefix_len
        length = request.extend_end - start
        return PrefillItem(request, request.row, start, length, samples, request.epoch)

    def join_running(self, requests: Sequence[Request], *, front: bool = False) -> None:
        """Let requests whose prefill is planned to its end decode from the next round on."""
        for request in requests:
            request.state = State.RUNNING
        self.running.join(requests, front=front)

    def give_up(self, request: Request) -> None:
        """Take all memory from a running request: it will be computed again from its tokens."""
        request.epoch += 1
        self.running.settle(request)
        self.memory.release(request)
        request.retractions += 1
        self._given_up.append(request)

    def end_running(self, request: Request, reason: FinishReason) -> None:
        """End a running or chunked request without keeping what it computed."""
        request.epoch += 1
        self.running.settle(request)
        self.memory.release(request)
        self._end(request, reason)

    # -- results ------------------------------------------------------------------------------

    def _commit_items(self, batch: Batch, stops: set[int]) -> tuple[Request, ...]:
        dropped = []
        sampling = [item for item in batch.prefill if item.samples]
        for i, item in enumerate(sampling):
            if item.request.epoch != item.epoch:
                dropped.append(item.request)
            else:
                self._commit_prefill(item, i in stops)
        if batch.decode is not None:
            late = self.running.commit(batch.decode)
            dropped.extend(late)
            first = len(sampling)
            stopped = [batch.decode.requests[i - first] for i in sorted(stops) if i >= first]
            self._commit_round(batch.decode, set(stopped) - set(late))
        return tuple(dropped)

    def _commit_prefill(self, item: PrefillItem, stop: bool) -> None:
        request = item.request
        request._output_len += 1
        reason = self._reason(request, stop)
        if reason is not None:
            self._finish(request, reason)
        else:
            self.memory.checkpoint(request, item.seq_len)
            request.prefix_len = item.seq_len

    def _commit_round(self, rows: DecodeRows, stopped: set[Request]) -> None:
        """End the members that a decode round ends, in batch order."""
        ends = {*stopped, *self.running.due()}
        if self._aborts_pending:
            ends |= {r for r in rows.requests if r.abort_requested and r.state is State.RUNNING}
        if not ends:
            return
        for request in [r for r in rows.requests if r in ends]:
            reason = self._reason(request, request in stopped)
            assert reason is not None
            self._finish(request, reason)

    @staticmethod
    def _reason(request: Request, stop: bool) -> FinishReason | None:
        """Why a request ends with the token it has just been given, if it does."""
        if request.abort_requested:
            return FinishReason.ABORT
        if stop:
            return FinishReason.STOP
        return FinishReason.LENGTH if request.remaining_tokens <= 0 else None

    def _finish(self, request: Request, reason: FinishReason) -> None:
        request.epoch += 1
        if self.running.settle(request):
            self.running.full = False
        self.memory.finish(request)
        self._end(request, reason)

    def _end(self, request: Request, reason: FinishReason) -> None:
        request.state = State.FINISHED
        request.finish_reason = reason
        if request.abort_requested:
            self._aborts_pending -= 1
        del self._live[request.id]
        self._ended.append(request)

    def _events(self, batch: Batch | None = None, dropped: tuple[Request, ...] = ()) -> Events:
        if batch is None and not self._ended and not self._given_up:
            return NO_EVENTS
        events = Events(batch, dropped, tuple(self._ended), tuple(self._given_up))
        self._ended.clear()
        self._given_up.clear()
        return events

    # -- looking at it ------------------------------------------------------------------------

    def gauges(self) -> Gauges:
        """The state in numbers, as the step just planned leaves it."""
        memory = self.memory
        return Gauges(
            self.ratio.value,
            len(self.waiting),
            len(self.running),
            memory.free,
            memory.cache.evictable,
            memory.cache.protected,
            memory.evicted_tokens,
        )

    def live_requests(self) -> Iterable[Request]:
        """The requests that came in and have not ended."""
        return self._live.values()

    def describe(self) -> str:
        """The state in one line, for messages."""
        chunked = self.chunked.id if self.chunked else "none"
        gauges = ", ".join(f"{key} {value}" for key, value in self.gauges()._asdict().items())
        return f"iteration {self.iteration}, chunked {chunked}, in flight {len(self.launched)}, {gauges}"

    def check_integrity(self) -> None:
        """Raise AssertionError if any invariant is broken. Holds after every call of the loop's.

        - every live request is in exactly one place: waiting, being prefilled, or running;
        - tokens free, cached and held add up to the capacity, rows too, and locks match holders;
        - what is planned and not committed is what is in flight.
        """
        places: dict[int, list[str]] = {}
        for request in self.waiting:
            places.setdefault(id(request), []).append(State.WAITING)
            assert request.row is None, f"{request} waits and holds a row"
        for request in self.running:
            places.setdefault(id(request), []).append(State.RUNNING)
        for request in self._live.values():
            found = places.pop(id(request), [])
            if request.state is State.WAITING:
                assert found == [State.WAITING], f"{request} is in {found}"
            elif request.state is State.PREFILL:
                assert found == [], f"{request} is in {found}"
            else:  # it may have left the batch, its last token in flight
                assert found in ([State.RUNNING], []), f"{request} is in {found}"
                assert found or self.launched, f"{request} is lost"
        assert not places, "a request that ended is still queued"
        rounds = sum(1 for batch in self.launched if batch.decode is not None)
        assert rounds == self.running.in_flight, "a decode round is lost"
        self.memory.check(self._live.values())


def _resolved(value: int | str | None, key: str) -> int | None:
    if isinstance(value, str):
        msg = f"policy.{key} is {value!r}; the world must put a number in its place"
        raise TypeError(msg)
    return value


def _memory(config: PolicyConfig, capacity: int, rows: int, pool: KVPool | None) -> KVMemory:
    if pool is None:
        pool = CountingPool(capacity, config.page_size, rows)
    cache: PrefixCache
    if config.cache == "radix":
        eviction = EVICTIONS.create(config.eviction, config.eviction_options)
        cache = RadixCache(config.page_size, eviction, pool.free_pages)
    else:
        cache = NoCache()
    return KVMemory(pool, cache)
