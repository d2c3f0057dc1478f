"""The scheduler: the state of every request, and the invariants over it.

It owns the waiting queue, the running batch, the chunked request and the KV memory, and makes every
change of state: a request comes in, is admitted, decodes, is retracted, ends. What to do next is
chosen by the strategies it is built from. It does no I/O, reads no clock, and knows neither how long
a step takes nor how many tokens a request will produce.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from policies.admission.new_token_ratio import NewTokenRatio
from policies.batch import NO_EVENTS, Batch, Events, Mode
from policies.foresight import catch_up, foresee, vouches
from policies.orders.base import check_arranged
from policies.priority import Priorities
from policies.registry import BATCHINGS, ORDERS, RETRACTIONS
from policies.request import FinishReason, Request, State
from policies.running import RunningBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from policies.batch import Inbox, StepResult
    from policies.batching.base import Batching
    from policies.config import PolicyConfig
    from policies.effects import Repeat, Repeated
    from policies.kv.base import Memory
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

    Attributes:
        waiting: the queue. A batching strategy may sort it; who leaves does so by `leave_queue`.
        running: the running batch. A batching strategy plans and commits its rounds and sets its
            `full`; who joins or ends does so by the scheduler's methods.
        chunked: the request whose prompt is computed in part; the batching strategy writes it.
        processed_tokens: see the order hrrn; the batching strategy writes it.
        retracted, preempted: in this round, for want of memory or for another request; whoever gives
            requests up adds them.
        launched: batches not yet committed, oldest first. It, `last` (the batch of the round before) and
            `iteration` are written by `policies.foresight` too, `iteration` by a world that restarts.
    """

    def __init__(self, config: PolicyConfig, kv_capacity: int, pool: KVPool | None = None) -> None:
        self.config = config
        self.overlapped = config.overlap == "overlapped"
        self.chunk = _resolved(config.chunked_prefill_size, "chunked_prefill_size")
        rows = _resolved(config.max_running_requests, "max_running_requests")
        assert rows is not None
        self.max_running = rows
        self.batching: Batching = BATCHINGS.create(config.batching, config.batching_options)
        self._foresees = vouches(self.batching, "repeatable")
        self.foresees_departures = self.batching.foresees_departures and vouches(
            self.batching, "foresees_departures"
        )
        self.memory: Memory = self.batching.make_memory(config, kv_capacity, rows, pool)
        self.intake = self.batching.make_intake(config, self.memory.capacity)

        order_name = config.order
        if config.cache == "none" and ORDERS.create(order_name, config.order_options).cache_aware:
            order_name = "fcfs"  # nothing to sort by
        options = config.order_options if order_name == config.order else {}
        self.order: QueueOrder = ORDERS.create(order_name, options)
        # Orders that ship keep the queue whole (tests check invariants); others are checked each time.
        # It goes by the class's own module: a name that ships may have been given to another class.
        self._order_ships = type(self.order).__module__.startswith("policies.orders.")
        self.priorities = Priorities(config.priority)
        self.retraction: Retraction = RETRACTIONS.create(config.retraction)
        self.ratio = NewTokenRatio(**config.new_token_ratio.model_dump())

        self.waiting: list[Request] = []
        self.running = RunningBatch(config.page_size)
        self.chunked: Request | None = None
        self.launched: deque[Batch] = deque()
        self.last: Batch | None = None
        self.now = 0
        self.iteration = 0
        self.processed_tokens = 0
        self.retracted: list[Request] = []
        self.preempted: list[Request] = []
        self._view = _View(self)
        self._live: dict[str, Request] = {}
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
        return self._events() if self._ended or self._given_up else NO_EVENTS

    def next_batch(self) -> Batch | None:
        """Plan the next step, and remember it as launched. Being asked while idle changes nothing."""
        self.retracted.clear()
        self.preempted.clear()
        if not self._live and self.is_idle():
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
        dropped = self.batching.commit(self, batch, set(result.stops))
        if self._ended or self._given_up:
            return self._events(batch, dropped)
        return Events(batch, dropped)

    def foresee(self, batch: Batch) -> Repeat | None:
        """What of the rounds to come is known already, `batch` having been launched last."""
        if self._ended or self._given_up or not self._foresees:
            return None
        return foresee(self, batch)

    def repeat(self, done: Repeated) -> Events:
        """Catch up with the rounds a world went through at once."""
        return Events(repeated=catch_up(self, done)) if done.rounds else NO_EVENTS

    def take_ended(self) -> tuple[Request, ...]:
        """Those who ended and were not reported yet: whoever asks reports them."""
        ended = tuple(self._ended)
        self._ended.clear()
        return ended

    def is_idle(self) -> bool:
        """Nothing runs, is chunked or is in flight, nothing waits, and every end has been reported."""
        return not (self._live or self.launched or self._ended or self.batching.has_news())

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
        if refusal is None and self.config.max_queued_requests is not None:
            refusal = self._queue_full(request, self.config.max_queued_requests)
        self._live[request.id] = request
        if refusal is not None:
            self._refuse(request, refusal)
        else:
            self.enqueue(request)

    def _queue_full(self, request: Request, limit: int) -> str | None:
        """Why there is no place in the queue; a worse waiting request makes way under priorities."""
        if len(self.waiting) < limit:
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

    def enqueue(self, request: Request, *, front: bool = False) -> None:
        """Put a request at the tail of the waiting queue, or at its head."""
        self._entries += 1
        request.entry = self._entries
        request.arrival_processed_tokens = self.processed_tokens
        request.state = State.WAITING
        if front:
            self.waiting.insert(0, request)
        else:
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
            else:
                self.batching.abort(self, request)

    # -- what strategies do -------------------------------------------------------------------

    def arrange_waiting(self) -> None:
        """Put the waiting queue into the order of the queue order."""
        order = self.order
        if self.priorities.enabled and order.by_priority:
            self.waiting = self.priorities.arrange(order, self.waiting, self._view)  # type: ignore[arg-type]
        elif self._order_ships:
            self.waiting = order.arrange(self.waiting, self._view)
        else:  # it gets a copy, so that what it loses is noticed
            arranged = order.arrange([*self.waiting], self._view)
            check_arranged(self.config.order, self.waiting, arranged)
            self.waiting = arranged

    def leave_queue(self, admitted: list[Request]) -> None:
        """Take requests out of the waiting queue; mostly they are its head."""
        if self.waiting[: len(admitted)] == admitted:
            del self.waiting[: len(admitted)]
        else:
            leaving = set(admitted)
            self.waiting = [request for request in self.waiting if request not in leaving]

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

    def end_running(self, request: Request, reason: FinishReason, why: str | None = None) -> None:
        """End a running or chunked request without keeping what it computed, and say why."""
        request.refusal = why
        request.epoch += 1
        self.running.settle(request)
        self.memory.release(request)
        self._end(request, reason)

    # -- ends ---------------------------------------------------------------------------------

    @staticmethod
    def reason_to_end(request: Request, *, stop: bool) -> FinishReason | None:
        """Why a request ends with the token it has just been given, if it does.

        Args:
            request: the request.
            stop: whether the token ends the sequence by itself.
        """
        if request.abort_requested:
            return FinishReason.ABORT
        if stop:
            return FinishReason.STOP
        return FinishReason.LENGTH if request.remaining_tokens <= 0 else None

    def finish(self, request: Request, reason: FinishReason) -> None:
        """End a request; what it computed may stay in the cache."""
        request.epoch += 1
        if self.running.settle(request):
            self.running.full = False
        self.memory.finish(request)
        self._end(request, reason)

    def _end(self, request: Request, reason: FinishReason) -> None:
        request.state = State.FINISHED
        request.finish_reason = reason
        del self._live[request.id]
        self._ended.append(request)
        self.batching.on_end(request)

    def _events(self, batch: Batch | None = None, dropped: tuple[Request, ...] = ()) -> Events:
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
            memory.evictable,
            memory.protected,
            memory.evicted_tokens,
        )

    @property
    def live(self) -> int:
        """Requests that came in and have not ended."""
        return len(self._live)

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
                in_flight = self.launched or self.batching.sits_out(request)
                assert found or in_flight, f"{request} is lost"
        assert not places, "a request that ended is still queued"
        rounds = sum(1 for batch in self.launched if batch.decode is not None)
        assert rounds == self.running.in_flight, "a decode round is lost"
        self.memory.check(self._live.values())


def _resolved(value: int | str | None, key: str) -> int | None:
    if isinstance(value, str):
        msg = f"policy.{key} is {value!r}; the world must put a number in its place"
        raise TypeError(msg)
    return value
