"""What a client gets back: the output of one request, and the log-probabilities of its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from policies import FinishReason


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probabilities at one position, of the model's own distribution.

    Attributes:
        token: the sampled id.
        logprob: its log-probability.
        top: the most likely ids with theirs, most likely first; as many as were asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """When things happened to a request, in integer nanoseconds of the world's clock.

    Attributes:
        arrival_ns: it came in.
        first_token_ns: its first token was there; None if it never got one.
        finish_ns: it ended.
    """

    arrival_ns: int
    first_token_ns: int | None
    finish_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class RequestOutput:
    """A request that ended.

    Attributes:
        id: the request's.
        prompt_ids: int32 (prompt tokens,).
        output_ids: int32 (output tokens,), the one that ended it included.
        text: the output's text, without EOS, stop id or stop string unless asked for; None where no
            tokenizer was loaded.
        finish_reason: why it ended.
        cached_tokens: prompt tokens whose KV was in the prefix cache.
        times: when it came, got its first token and ended.
        stop_reason: the id or string that ended it; None where something else did.
        logprobs: one for each output token; None where none were asked for.
        error: why it was refused or failed, None where it was not.
    """

    id: str
    prompt_ids: npt.NDArray[np.int32]
    output_ids: npt.NDArray[np.int32]
    text: str | None
    finish_reason: FinishReason
    cached_tokens: int
    times: RequestTimes
    stop_reason: int | str | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    error: str | None = None
