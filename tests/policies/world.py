"""A small world for tests: a step counter for a clock, a model whose tokens are known, a KV audit.

It answers the effects of an event loop and holds the scheduler to its word at each of them:

- `check_integrity` after every effect;
- `Sleep` only when nothing is left, and few rounds without a batch while something is;
- every request ends once, and what was reported of it adds up;
- the KV audit: a memory of pages remembers for each slot which token, after which prefix, was written
  there. At every launch the pages of every item must hold that request's own sequence, whole, and a
  decode row must be fed the token that its row sampled last.

It runs a batch as it is launched, as a device that takes batches in order does.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from policies import (
    LOOPS,
    NOT_REPEATED,
    Batch,
    Collect,
    CountingPool,
    Events,
    FinishReason,
    Inbox,
    IndexedPool,
    Launch,
    PolicyConfig,
    Receive,
    Repeat,
    Report,
    Request,
    Scheduler,
    Sleep,
    StepResult,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

EOS = 2
FILLER = 7  # what the model goes on with after the outputs a client names


@dataclass(frozen=True, slots=True)
class Client:
    """What one client asks for, and what the model would answer.

    `outputs` are followed by endless `FILLER`. An `EOS` among them ends the request, unless it
    ignores that.
    """

    id: str
    prompt: tuple[int, ...]
    outputs: tuple[int, ...] = ()
    max_new_tokens: int = 4
    arrival: int = 0
    ignore_eos: bool = False
    priority: int | None = None
    extra_key: str | None = None
    routing_key: str | None = None

    def output(self, index: int) -> int:
        """The output token with that index."""
        assert index >= 0, f"{self.id}: sampled before its prompt was computed"
        return self.outputs[index] if index < len(self.outputs) else FILLER

    def ending(self, max_new_tokens: int) -> tuple[FinishReason, int]:
        """How the request ends if nothing interferes, and with how many tokens.

        A prefill samples, so even a request cut to no token gets one.
        """
        most = max(1, max_new_tokens)
        if not self.ignore_eos and EOS in self.outputs[:most]:
            return FinishReason.STOP, self.outputs.index(EOS) + 1
        return FinishReason.LENGTH, most


class ClientTokens:
    """The tokens of a client's request, as far as the world has handed them out."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.prompt_len = len(client.prompt)
        self.sampled = 0  # output tokens that the scheduler may know of

    def read(self, stop: int) -> npt.NDArray[np.int32]:
        """See `TokenSource.read`."""
        assert stop <= self.prompt_len + self.sampled, "a token is read before it was sampled"
        outputs = [self._client.output(i) for i in range(stop - self.prompt_len)]
        return np.array((*self._client.prompt, *outputs)[:stop], dtype=np.int32)


class KVAudit:
    """A KV memory that remembers what was written where.

    A slot's content is the identity of a whole prefix (namespace, tokens), because that is what KV
    depends on; prefixes are numbered in a tree.
    """

    def __init__(self, pool: IndexedPool) -> None:
        self._pool = pool
        self._slots = np.zeros((pool.capacity // pool.page_size + 1) * pool.page_size, np.int64)
        self._prefixes: dict[tuple[Any, int], int] = {}
        self._paths: dict[str, list[int]] = {}
        self._last_sampled: dict[int, tuple[str, int]] = {}  # row -> request, length it makes

    def _path(self, client: Client, length: int) -> list[int]:
        """The prefix numbers of a client's sequence: shape (at least length,)."""
        path = self._paths.setdefault(client.id, [])
        while len(path) < length:
            at = len(path)
            before = path[-1] if path else client.extra_key
            prompt = len(client.prompt)
            token = client.prompt[at] if at < prompt else client.output(at - prompt)
            path.append(self._prefixes.setdefault((before, token), len(self._prefixes) + 1))
        return path

    def _places(self, row: int, start: int, stop: int) -> npt.NDArray[np.int64]:
        size = self._pool.page_size
        at = np.arange(start, stop)
        pages = self._pool.table[row, at // size].astype(np.int64)
        assert (pages > 0).all(), f"row {row} writes to or reads from the padding page"
        places: npt.NDArray[np.int64] = pages * size + at % size
        return places

    def run(self, batch: Batch, clients: Mapping[str, Client]) -> None:
        """Write what a batch writes, then look at all that it reads."""
        spans = [(i.request, i.row, i.start, i.seq_len, i.samples) for i in batch.prefill]
        if batch.decode is not None:
            lens = batch.decode.seq_lens().tolist()
            rows = batch.decode.cohort.rows.tolist()
            for request, row, n in zip(batch.decode.requests, rows, lens, strict=True):
                assert self._last_sampled[row] == (request.id, n), f"{request.id}: wrong input"
                spans.append((request, row, n - 1, n, True))
        for request, row, start, stop, _ in spans:
            places = self._places(row, start, stop)
            self._slots[places] = self._path(clients[request.id], stop)[start:stop]
        for request, row, _, stop, samples in spans:
            held = self._slots[self._places(row, 0, stop)]
            wrong = np.flatnonzero(held != self._path(clients[request.id], stop)[:stop])
            assert not len(wrong), f"{request.id}: the KV at {wrong[0]} of {stop} is another's"
            if samples:
                self._last_sampled[row] = (request.id, stop + 1)


@dataclass(slots=True)
class Outcome:
    """What clients saw of a request."""

    accepted: int = 0
    ended: FinishReason | None = None
    abort_sent: bool = False


@dataclass
class World:
    """See the module.

    Args:
        policy: of the scheduler.
        capacity: tokens of KV.
        clients: by arrival.
        aborts: step -> ids whose clients give up then.
        indexed: real pages, audited; or counted ones.
        patience: rounds without a batch that are allowed in a row while work is left.
    """

    policy: PolicyConfig
    capacity: int
    clients: Sequence[Client]
    aborts: Mapping[int, Sequence[str]] = field(default_factory=dict)
    indexed: bool = True
    patience: int = 8
    step: int = -1
    idle_rounds: int = 0
    sleeps: int = 0
    batches: list[tuple[Any, ...]] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=lambda: defaultdict(Outcome))
    requests: dict[str, Request] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.policy.max_running_requests
        assert isinstance(rows, int)
        kind = IndexedPool if self.indexed else CountingPool
        self.pool = kind(self.capacity, self.policy.page_size, rows)
        self.s = Scheduler(self.policy, self.capacity, self.pool)
        self.audit = KVAudit(self.pool) if isinstance(self.pool, IndexedPool) else None
        self.by_id = {client.id: client for client in self.clients}
        self._arrivals: dict[int, list[Client]] = defaultdict(list)
        for client in self.clients:
            self._arrivals[client.arrival].append(client)
        self._aborts = {step: tuple(ids) for step, ids in self.aborts.items()}
        self._left = {client.id for client in self.clients}

    def run(self) -> World:
        """Until every client has its answer."""
        for _ in self.rounds():
            pass
        self._check_end()
        return self

    def rounds(self) -> Iterator[World]:
        """Stops before each `Receive`, so that a test can look around."""
        loop = LOOPS[self.policy.overlap](self.s)
        answer: Any = None
        while True:
            effect = loop.send(answer)
            answer = None
            match effect:
                case Receive():
                    yield self
                    answer = self._receive()
                case Launch(batch):
                    answer = self._launch(batch)
                case Collect(ticket):
                    answer = self._collect(ticket)
                case Report(events):
                    self._note(events)
                case Repeat():
                    answer = NOT_REPEATED
                case Sleep(until):
                    self.sleeps += 1
                    assert until is None
                    assert not self.s.launched, "asleep with a batch in flight"
                    assert not list(self.s.live_requests()), "asleep with work left"
                    if not self._arrivals:
                        return
                    self.step = min(self._arrivals) - 1
                    self.idle_rounds = -1
            self.s.check_integrity()
            for request in self.s.waiting:
                held = (request.row, request.lock, request.kv_len, request.inserted_len)
                assert held == (None, None, 0, 0), f"{request.id} waits and holds {held}"

    def _receive(self) -> Inbox:
        self.step += 1
        self.idle_rounds += 1
        assert self.idle_rounds <= self.patience, f"no batch any more: {self.s.describe()}"
        arrivals = [self._request(client) for client in self._arrivals.pop(self.step, ())]
        aborts = self._aborts.get(self.step, ())
        for client_id in aborts:
            self.outcomes[client_id].abort_sent = True
        return Inbox(self.step, arrivals, aborts)

    def _request(self, client: Client) -> Request:
        request = Request(
            client.id,
            ClientTokens(client),
            client.max_new_tokens,
            self.step,
            ignore_eos=client.ignore_eos,
            priority=client.priority,
            extra_key=client.extra_key,
            routing_key=client.routing_key,
        )
        self.requests[client.id] = request
        return request

    def _launch(self, batch: Batch) -> tuple[Batch, list[tuple[Request, int]]]:
        self.idle_rounds = 0
        prefill = tuple((i.request.id, i.row, i.start, i.length, i.samples) for i in batch.prefill)
        sampling = [(i.request, i.seq_len) for i in batch.prefill if i.samples]
        decode: tuple[Any, ...] = ()
        if batch.decode is not None:
            lens = batch.decode.seq_lens().tolist()
            sampling += zip(batch.decode.requests, lens, strict=True)
            decode = tuple((r.id, n) for r, n in zip(batch.decode.requests, lens, strict=True))
            assert batch.decode.kv_tokens == sum(lens)
        assert batch.items, "a batch without items"
        assert all(item.length > 0 for item in batch.prefill)
        ids = [i.request.id for i in batch.prefill] + [request_id for request_id, _ in decode]
        assert len(set(ids)) == len(ids), "a request is in a batch twice"
        if self.audit is not None:
            self.audit.run(batch, self.by_id)
        self.batches.append((self.step, str(batch.mode), prefill, decode, self.s.gauges()))
        return batch, sampling

    def _collect(self, ticket: tuple[Batch, list[tuple[Request, int]]]) -> StepResult:
        stops = []
        for i, (request, seq_len) in enumerate(ticket[1]):
            client, at = self.by_id[request.id], seq_len - request.prompt_len
            tokens = request.tokens
            assert isinstance(tokens, ClientTokens)
            tokens.sampled = max(tokens.sampled, at + 1)
            if client.output(at) == EOS and not client.ignore_eos:
                stops.append(i)
        return StepResult(stops)

    def _note(self, events: Events) -> None:
        if events.batch is not None:
            given = [i.request.id for i in events.batch.prefill if i.samples]
            if events.batch.decode is not None:
                given += [r.id for r in events.batch.decode.requests]
            dropped = Counter(r.id for r in events.dropped)
            assert not dropped - Counter(given), "a token is dropped that was not sampled"
            for request_id in (Counter(given) - dropped).elements():
                outcome = self.outcomes[request_id]
                assert outcome.ended is None, f"{request_id}: a token after its end"
                outcome.accepted += 1
        for request in events.ended:
            outcome = self.outcomes[request.id]
            assert outcome.ended is None, f"{request.id} ended twice"
            assert outcome.accepted == request.output_len, f"{request.id}: tokens lost"
            assert request.finish_reason is not None
            outcome.ended = request.finish_reason
            self._left.remove(request.id)

    def _check_end(self) -> None:
        assert not self._left, f"never answered: {sorted(self._left)}"
        memory = self.s.memory
        assert memory.free + memory.evictable == memory.capacity
        assert memory.protected == 0
        assert self.pool.free_rows == self.pool.rows
        assert not self.s.waiting
        assert not self.s.running
        assert self.s.chunked is None

    def check_answers(self) -> None:
        """Each request got exactly its tokens, or was aborted or refused for a reason."""
        for client in self.clients:
            request, outcome = self.requests[client.id], self.outcomes[client.id]
            reason, tokens = client.ending(request.max_new_tokens)
            match outcome.ended:
                case FinishReason.REFUSED:
                    assert request.refusal
                    assert outcome.accepted == 0 or request.retractions, "it had run"
                case FinishReason.ABORT:
                    assert outcome.abort_sent, f"{client.id} aborted, though nobody asked for it"
                    assert outcome.accepted <= tokens
                case ended:
                    assert (ended, outcome.accepted) == (reason, tokens), client.id
