"""The messages between the scheduler and a world: batches out, arrivals and results in.

A batch is a snapshot: the scheduler goes on changing its running batch after launching it. It carries
no tensor. Its decode rows are held as one `DecodeRows`, whose per-row values are made only for a
world that asks, because most decode steps differ from the last only in that each row is one token
longer. Nobody changes a message once it is made (see `policies.effects`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from policies.request import Request

    Int64Array = npt.NDArray[np.int64]


class Mode(StrEnum):
    """What kind of forward pass a batch is."""

    EXTEND = "extend"  # prompt tokens only
    DECODE = "decode"  # one token for each running request
    MIXED = "mixed"  # both
    EMPTY = "empty"  # no item: takes a place in the pipeline, no time on the device


@dataclass(slots=True, eq=False)
class PrefillItem:
    """One request's share of prefill work: tokens [start, start + length) of its sequence.

    `samples` is false for a chunk with more to come: its logits are not needed. `epoch` is the
    request's when the batch was planned; a result for an older epoch is void.
    """

    request: Request
    row: int
    start: int
    length: int
    samples: bool
    epoch: int

    @property
    def seq_len(self) -> int:
        """KV length after this step, in tokens."""
        return self.start + self.length


class Cohort:
    """The members of a running batch while nobody joins or leaves.

    A member's KV length in round `r` is its offset + r, so one object serves every round until the
    membership changes.
    """

    __slots__ = ("__dict__", "first_round", "joined", "offset_sum", "requests")

    def __init__(
        self,
        requests: tuple[Request, ...],
        joined: tuple[Request, ...],
        first_round: int,
        offset_sum: int,
    ) -> None:
        self.requests = requests
        self.joined = joined  # those for whom `first_round` is the first decode round
        self.first_round = first_round
        self.offset_sum = offset_sum  # sum over members of (KV length in round r) - r

    @cached_property
    def offsets(self) -> Int64Array:
        """int64, shape (n,): KV length in round r, minus r. First read while it is current."""
        return np.array([offset_of(request) for request in self.requests], dtype=np.int64)

    @cached_property
    def rows(self) -> Int64Array:
        """int64, shape (n,): each member's row in the world's per-request tables."""
        return np.array([r.row for r in self.requests], dtype=np.int64)


def offset_of(request: Request) -> int:
    """A member's KV length in a decode round, the token written in it included, less the round's number."""
    return request._kv_len + 1 - request._joined


class DecodeRows:
    """The decode part of a batch: every member of `cohort`, one token longer than the round before.

    Args:
        cohort: the members, in batch order.
        round: number of this decode round; rounds are launched and committed in order.
    """

    __slots__ = ("cohort", "requests", "round")

    def __init__(self, cohort: Cohort, round: int) -> None:  # noqa: A002 - what it is
        self.cohort = cohort
        self.requests = cohort.requests
        self.round = round

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def joined(self) -> tuple[Request, ...]:
        """Members for whom this is the first decode round since their prefill."""
        return self.cohort.joined if self.round == self.cohort.first_round else ()

    @property
    def kv_tokens(self) -> int:
        """Sum of the rows' KV lengths, the tokens written in this step included."""
        return self.cohort.offset_sum + len(self.requests) * self.round

    def kv_len(self, request: Request) -> int:
        """A member's KV length, the token written in this step included."""
        return offset_of(request) + self.round

    def seq_lens(self) -> Int64Array:
        """int64, shape (n,): each row's KV length, the token written in this step included."""
        return self.cohort.offsets + self.round


@dataclass(slots=True, eq=False)
class Batch:
    """The whole message to a world: what one forward pass computes.

    Items are the prefill items in order, then the decode rows in order. Sampling items, in that
    order, are the prefill items with `samples`, then every decode row.
    """

    iteration: int
    mode: Mode
    prefill: tuple[PrefillItem, ...] = ()
    decode: DecodeRows | None = None
    chunked: Request | None = None  # the request left unfinished by this batch's prefill

    def later(self, rounds: int) -> Batch:
        """This decode batch so many rounds later, nobody having joined or left."""
        assert self.decode is not None
        rows = DecodeRows(self.decode.cohort, self.decode.round + rounds)
        return Batch(self.iteration + rounds, self.mode, decode=rows)

    @property
    def decode_requests(self) -> int:
        """Decode rows."""
        return 0 if self.decode is None else len(self.decode.requests)

    @property
    def prefill_tokens(self) -> int:
        """New prompt tokens computed."""
        tokens = 0
        for item in self.prefill:
            tokens += item.length
        return tokens

    @property
    def items(self) -> int:
        """Prefill items and decode rows."""
        return len(self.prefill) + self.decode_requests


@dataclass(slots=True, eq=False)
class StepResult:
    """What the device made of a batch.

    Attributes:
        stops: indices among the batch's sampling items (see `Batch`), ascending, whose token ends the
            sequence by itself: EOS, a stop token or a stop string. Requests that ignore EOS are left
            out by the world.
        tokens: int32, shape (sampling items,), the sampled ids, for records; None where the world
            need not say. The scheduler reads ids from `Request.tokens` only.
    """

    stops: Sequence[int] = ()
    tokens: npt.NDArray[np.int32] | None = None


@dataclass(slots=True, eq=False)
class Inbox:
    """What came in since the world was last asked.

    Attributes:
        now: the world's clock, in nanoseconds.
        arrivals: new requests, in order of arrival.
        aborts: ids of requests whose client gave up; handled after the arrivals.
        ready: ids of requests for which something awaited elsewhere is there now.
    """

    now: int
    arrivals: Sequence[Request] = ()
    aborts: Sequence[str] = ()
    ready: Sequence[str] = ()


class RoundStates(NamedTuple):
    """The scheduler's state as each of many launches left it.

    Each is a value for each round, or one where it stays the same: a single value of
    `evicted_tokens` means that only the first launch evicted, if any did.
    """

    new_token_ratio: Sequence[float] | float
    free_tokens: Sequence[int] | int
    evictable_tokens: Sequence[int] | int
    protected_tokens: Sequence[int] | int
    evicted_tokens: Sequence[int] | int  # in all, up to each launch


class Repetition(NamedTuple):
    """Rounds that went by at once: what so many calls of `commit` would have reported, one by one.

    Attributes:
        batch: the batch launched in the last of them; those before are its earlier rounds.
        rounds: how many.
        states: makes the state as each launch left it, for records.
        ended: requests that ended with the last commit, in order.
    """

    batch: Batch
    rounds: int
    states: Callable[[], RoundStates]
    ended: tuple[Request, ...] = ()


@dataclass(slots=True, eq=False)
class Events:
    """What clients could notice.

    Attributes:
        batch: each sampling item of this batch has had its token accepted, but those of `dropped`.
        dropped: requests of the batch whose token came too late: ended or retracted meanwhile.
        ended: requests that ended, in order; `Request.finish_reason` says why.
        retracted: requests whose KV was given up to make room; they wait again.
        repeated: rounds that went by at once, in order, instead of all else.
    """

    batch: Batch | None = None
    dropped: tuple[Request, ...] = ()
    ended: tuple[Request, ...] = ()
    retracted: tuple[Request, ...] = ()
    repeated: tuple[Repetition, ...] = ()


NO_EVENTS = Events()
