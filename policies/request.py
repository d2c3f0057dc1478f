"""A request: what a client asked for, and how far the scheduler has got with it.

The scheduler keeps few integers per request and derives the rest. While a request decodes, even its
lengths are derived, from the rounds that its `RunningBatch` has gone through, so a decode step that
changes nothing touches no request. A request does not know its true output length: that belongs to
the workload and the world.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableSequence

    from policies.running import RunningBatch
    from policies.tokens import TokenSource


class State(StrEnum):
    """Where a request is. A retracted or preempted request waits again."""

    WAITING = "waiting"
    PREFILL = "prefill"
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"  # the model ended it: EOS, a stop token or a stop string
    LENGTH = "length"  # it reached its max_new_tokens
    ABORT = "abort"  # the client gave up, or no memory was left for the last request
    REFUSED = "refused"  # it could never have run; `Request.refusal` says why


class Request:
    """One request.

    The first group of arguments is what scheduling needs, the second is carried untouched.

    Args:
        id: unique name.
        tokens: source of its token ids.
        max_new_tokens: output tokens asked for; the intake may cut it to what can ever fit.
        arrival_ns: when it arrived, in integer nanoseconds of the world's clock.
        ignore_eos: the model's own stop does not end it.
        priority: its class where priorities are switched on; None takes the worst.
        extra_key: namespace of the prefix cache; prefixes are shared within one only. An adapter
            computes KV of its own, so its name becomes part of it.
        routing_key: key of the routing-key order.
        lora_id: adapter, None for the base model.
        tenant: who sent it.
        session: conversation it belongs to.
        sampling: sampling parameters for a world that samples.
    """

    __slots__ = (
        "_join",
        "_joined",
        "_kv_len",
        "_left",
        "_output_len",
        "_running",
        "abort_requested",
        "arrival_ns",
        "arrival_processed_tokens",
        "blocks",
        "cache_creation_tokens",
        "cached_len",
        "cached_tokens",
        "entry",
        "epoch",
        "extend_end",
        "extra_key",
        "finish_reason",
        "found",
        "id",
        "ignore_eos",
        "inserted_len",
        "lock",
        "lora_id",
        "max_new_tokens",
        "prefix_len",
        "priority",
        "prompt_len",
        "refusal",
        "registered",
        "requested_max_new_tokens",
        "retractions",
        "routing_key",
        "row",
        "sampling",
        "session",
        "state",
        "tenant",
        "tokens",
    )

    def __init__(
        self,
        id: str,  # noqa: A002 - the field's name for it
        tokens: TokenSource,
        max_new_tokens: int,
        arrival_ns: int = 0,
        *,
        ignore_eos: bool = False,
        priority: int | None = None,
        extra_key: str | None = None,
        routing_key: str | None = None,
        lora_id: str | None = None,
        tenant: str | None = None,
        session: str | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.tokens = tokens
        self.prompt_len = tokens.prompt_len
        self.max_new_tokens = max_new_tokens
        self.requested_max_new_tokens = max_new_tokens
        self.arrival_ns = arrival_ns
        self.ignore_eos = ignore_eos
        self.priority = priority
        self.extra_key = extra_key if lora_id is None else f"{extra_key or ''}\0{lora_id}"
        self.routing_key = routing_key
        self.lora_id = lora_id
        self.tenant = tenant
        self.session = session
        self.sampling = sampling

        self.state = State.WAITING
        self.finish_reason: FinishReason | None = None
        self.refusal: str | None = None
        self.abort_requested = False
        self.retractions = 0
        self.epoch = 0  # grows when it is retracted or ends: results launched before are void
        self.entry = 0  # rank of its latest entry into the waiting queue
        self.arrival_processed_tokens = 0  # HRRN: the scheduler's prefill counter when it entered

        self.row: int | None = None  # its row in the world's per-request tables
        self.prefix_len = 0  # leading tokens whose KV exists for it
        self.extend_end = 0  # this round computes tokens [prefix_len, extend_end)
        self.cached_tokens = 0  # prefix hits reported to the client
        self.cached_len = 0  # leading tokens of its row that the prefix cache owns
        self.inserted_len = 0  # leading tokens it has entered into the cache itself
        self.lock: Any = None  # the cache's handle of the path it holds
        self.found: Any = None  # the memory's handle of where its tokens were found to, last

        self.blocks: MutableSequence[int] = []  # its KV blocks, where memory is a block pool
        self.registered = 0  # its leading blocks that others can find
        self.cache_creation_tokens = 0  # prompt tokens it was the first to enter

        self._kv_len = 0
        self._output_len = 0
        self._running: RunningBatch | None = None
        self._join = 0  # number of its latest joining
        self._joined = 0  # running.planned when it joined
        self._left: int | None = None  # running.planned when it left, until it is settled

    @classmethod
    def asked_for(
        cls,
        asked: Any,
        tokens: TokenSource,
        sent_ns: int,
        *,
        max_new_tokens: int | None = None,
        ignore_eos: bool | None = None,
    ) -> Request:
        """A request as a workload has it.

        Args:
            asked: the workload's own request, which names what `Request` takes as `Request` does.
            tokens: source of its token ids.
            sent_ns: when it arrived.
            max_new_tokens: instead of what it asks for, if given.
            ignore_eos: instead of what it says, if given.
        """
        return cls(
            asked.id,
            tokens,
            asked.max_new_tokens if max_new_tokens is None else max_new_tokens,
            sent_ns,
            ignore_eos=asked.ignore_eos if ignore_eos is None else ignore_eos,
            priority=asked.priority,
            extra_key=asked.extra_key,
            routing_key=asked.routing_key,
            lora_id=asked.lora_id,
            tenant=asked.tenant,
            session=asked.session,
            sampling=asked.sampling,
        )

    def __repr__(self) -> str:
        return (
            f"<Request {self.id} {self.state} prompt={self.prompt_len} "
            f"output={self.output_len}/{self.max_new_tokens}>"
        )

    @property
    def kv_len(self) -> int:
        """Tokens with a KV slot of their own or shared, the step in flight included."""
        running = self._running
        if running is None:
            return self._kv_len
        until = running.planned if self._left is None else self._left
        return self._kv_len + until - self._joined

    @property
    def output_len(self) -> int:
        """Output tokens accepted so far."""
        running = self._running
        if running is None:
            return self._output_len
        until, left = running.committed, self._left
        if left is not None and left < until:
            until = left
        joined = self._joined
        return self._output_len + until - joined if until > joined else self._output_len

    @property
    def seq_len(self) -> int:
        """Prompt and accepted output tokens: what a prefill from scratch has to cover."""
        if self._running is None:
            return self.prompt_len + self._output_len
        return self.prompt_len + self.output_len

    @property
    def remaining_tokens(self) -> int:
        """Output tokens it may still produce."""
        if self._running is None:
            return self.max_new_tokens - self._output_len
        return self.max_new_tokens - self.output_len
