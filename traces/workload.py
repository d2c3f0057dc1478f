"""Requests as they arrive: what a client sends, and what the model will have answered.

A `Workload` is what both worlds replay. It knows nothing of files, of schedulers, or of how long
anything takes; times are integer nanoseconds from the start of the trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, cast

from traces.sessions import check_sessions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from traces.tokens import Tokens


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace.

    With `ignore_eos` the request runs to its length, as `sglang.bench_serving` replays one. Without
    it, a request whose output is shorter than `max_new_tokens` stops by itself after its output.

    Attributes:
        id: unique in its workload.
        arrival_ns: when it is sent, nanoseconds from the start of the trace.
        prompt: at least one token.
        output: what the model answers in replay; its length is the true output length (>= 1).
        max_new_tokens: how many tokens the client asks for (>= 1); by default the output's length.
        ignore_eos: whether the request runs to its length whatever the model answers.
        priority: as the scheduler's switch over priorities reads it.
        tenant: who sent it.
        session: the conversation or agent run it belongs to.
        extra_key: cache namespace; prompts of different namespaces share nothing.
        routing_key: what key-aware orders and routers group by.
        lora_id: the adapter it runs with.
        sampling: sampling parameters, JSON values, passed on untouched.
        abort_ns: when the client gives up, nanoseconds from the start of the trace, at or after
            the arrival.
        depends_on: requests of its session that must have ended before it is sent, in closed loop.
        delay_ns: how long after that, or after it was spawned, the client sends it: think time, or
            the wait for a tool.
        spawned_by: the request that, when it is sent, starts this one's delay.
        turn: its number in its session, from 0.

    Raises:
        ValueError: a value outside what is said above.
    """

    id: str
    arrival_ns: int
    prompt: Tokens
    output: Tokens
    # Left out, it is len(output), which a default cannot see: filled in below, never None after.
    max_new_tokens: int = cast("int", None)
    ignore_eos: bool = True
    priority: int | None = None
    tenant: str | None = None
    session: str | None = None
    extra_key: str | None = None
    routing_key: str | None = None
    lora_id: str | None = None
    sampling: Mapping[str, object] | None = None
    abort_ns: int | None = None
    depends_on: tuple[str, ...] = ()
    delay_ns: int = 0
    spawned_by: str | None = None
    turn: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens is None:
            object.__setattr__(self, "max_new_tokens", len(self.output))
        if not self.id:
            raise ValueError("a request needs an id that is not empty")
        if self.arrival_ns < 0:
            self._refuse("arrival_ns", self.arrival_ns, "0 or more")
        if len(self.prompt) < 1:
            self._refuse("prompt", "no token", "at least one token")
        if len(self.output) < 1:
            self._refuse("output", "no token", "at least one token")
        if self.max_new_tokens < 1:
            self._refuse("max_new_tokens", self.max_new_tokens, "1 or more")
        if self.abort_ns is not None and self.abort_ns < self.arrival_ns:
            self._refuse("abort_ns", self.abort_ns, f"the arrival ({self.arrival_ns}) or later")
        if self.delay_ns < 0:
            self._refuse("delay_ns", self.delay_ns, "0 or more")
        if self.turn is not None and self.turn < 0:
            self._refuse("turn", self.turn, "0 or more")

    def _refuse(self, name: str, found: object, expected: str) -> None:
        raise ValueError(f"request {self.id!r}: {name} is {found}; expected {expected}")


@dataclass(frozen=True, slots=True, repr=False)
class Workload:
    """Requests in the order they arrive; those of one instant in the order of the file.

    Attributes:
        name: what to call it in a table.
        requests: the requests.
        meta: where they come from, JSON values: path, format, sha256, seed, rows left out, choices
            made in reading.

    Raises:
        ValueError: requests out of order, two with one id, or one that waits for another that does
            not stand before it in its session.
    """

    name: str
    requests: Sequence[TraceRequest]
    meta: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "requests", tuple(self.requests))
        for before, after in pairwise(self.requests):
            if after.arrival_ns < before.arrival_ns:
                raise ValueError(
                    f"workload {self.name!r}: request {after.id!r} at {after.arrival_ns} ns stands "
                    f"after {before.id!r} at {before.arrival_ns} ns; expected arrival order"
                )
        if len({request.id for request in self.requests}) < len(self.requests):
            twice = _first_repeated(request.id for request in self.requests)
            raise ValueError(
                f"workload {self.name!r}: two requests are called {twice!r}; expected unique ids"
            )
        check_sessions(self.requests)

    def __repr__(self) -> str:
        requests = "1 request" if len(self) == 1 else f"{len(self):,} requests"
        return f"<Workload {self.name}: {requests} over {self.duration_ns / 1e9:,.1f} s>"

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[TraceRequest]:
        return iter(self.requests)

    @property
    def closed(self) -> bool:
        """Whether any request waits for another, so that the closed loop says when it is sent."""
        return any(r.depends_on or r.spawned_by is not None for r in self.requests)

    @property
    def duration_ns(self) -> int:
        """Nanoseconds from the first arrival to the last; 0 for fewer than two requests."""
        return self.requests[-1].arrival_ns - self.requests[0].arrival_ns if self.requests else 0

    def limit(self, n: int) -> Workload:
        """The first `n` requests (all, where there are fewer).

        Raises:
            ValueError: `n` < 1.
        """
        if n < 1:
            raise ValueError(f"limit must be at least 1 request, got {n}")
        if n >= len(self):
            return self
        return Workload(self.name, self.requests[:n], {**self.meta, "limit": n})

    def speedup(self, factor: float) -> Workload:
        """The same requests with arrival times divided by `factor`, rounded to a nanosecond.

        A client's patience (from arrival to `abort_ns`) stays as it is.

        Raises:
            ValueError: `factor` is not a positive number.
        """
        if not 0 < factor < float("inf"):
            raise ValueError(f"speedup must be a positive number, got {factor}")
        numerator, denominator = float(factor).as_integer_ratio()

        def moved(request: TraceRequest) -> TraceRequest:
            # integers throughout: a float cannot hold the nanoseconds of a calendar date
            arrival = (2 * request.arrival_ns * denominator + numerator) // (2 * numerator)
            if arrival >= 2**63:
                raise ValueError(
                    f"speedup {factor} moves request {request.id!r} beyond 2**63 nanoseconds"
                )
            given_up = request.abort_ns
            return replace(
                request,
                arrival_ns=arrival,
                abort_ns=None if given_up is None else given_up - request.arrival_ns + arrival,
            )

        before = self.meta.get("speedup", 1.0)
        total = float(factor) * (before if isinstance(before, int | float) else 1.0)
        meta = {**self.meta, "speedup": total}
        return Workload(self.name, [moved(request) for request in self.requests], meta)


@dataclass(frozen=True, slots=True)
class RequestStream:
    """Requests in order of arrival that are made as they are asked for, once.

    Attributes:
        name: what to call the workload.
        meta: what it was made from, JSON values.
        requests: the requests.
    """

    name: str
    meta: Mapping[str, object]
    requests: Iterator[TraceRequest]
    _sent: list[bool] = field(default_factory=list, repr=False, compare=False)

    def __iter__(self) -> Iterator[TraceRequest]:
        return self.requests

    def __next__(self) -> TraceRequest:
        return next(self.requests)

    def independent(self) -> Iterator[TraceRequest]:
        """The requests, none of which may wait for another: a stream is sent at its own times.

        Raises:
            ValueError: at a request that does; and at once, where they were asked for before.
        """
        if self._sent:
            raise ValueError(
                f"the stream {self.name!r} was sent before, and its requests are gone: make another"
            )
        self._sent.append(True)
        return self._independent()

    def _independent(self) -> Iterator[TraceRequest]:
        for request in self.requests:
            if request.depends_on or request.spawned_by is not None:
                raise ValueError(
                    f"request {request.id!r} of the stream {self.name!r} waits for another; make a "
                    f"whole workload with generate(), which can be sent in closed loop"
                )
            yield request


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
