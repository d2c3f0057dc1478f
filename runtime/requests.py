"""What comes from a client, checked before it gets to the scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.request import FinishReason
from runtime.sampling.output import RequestOutput, RequestTimes
from runtime.sampling.params import SamplingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from runtime.sampling.params import SamplingParams
    from runtime.weights.tokenizer import Tokenizer


class InvalidRequestError(ValueError):
    """A request that cannot be served: says what is wrong with it."""


def prompt_ids(
    prompt: str | Sequence[int], tokenizer: Tokenizer | None, vocab_size: int
) -> npt.NDArray[np.int32]:
    """The ids of a prompt: int32, shape (tokens,).

    Args:
        prompt: a text, or ids.
        tokenizer: the model's; None where it has none.
        vocab_size: ids are below it.

    Raises:
        InvalidRequestError: a text without a tokenizer, or something that is no id of the model's.
    """
    if isinstance(prompt, str):
        if tokenizer is None:
            raise InvalidRequestError(
                "the prompt is text, and the model was loaded without a tokenizer; give token ids"
            )
        prompt = tokenizer.encode(prompt)
    ids = np.asarray(prompt if isinstance(prompt, np.ndarray) else list(prompt))
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InvalidRequestError(
            f"the prompt is no flat list of token ids (shape {ids.shape}, type {ids.dtype})"
        )
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if len(wrong):
        at = int(wrong[0])
        raise InvalidRequestError(
            f"token id {ids[at]} at place {at} of the prompt is outside the vocabulary; ids are 0 to "
            f"{vocab_size - 1}"
        )
    return ids.astype(np.int32)


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """See that a request's sampling options go with the model.

    Raises:
        InvalidRequestError: where they do not.
    """
    try:
        params.check_vocabulary(vocab_size)
    except SamplingError as error:
        raise InvalidRequestError(str(error)) from None


def refused_output(request_id: str, why: str, now_ns: int) -> RequestOutput:
    """The output of a request that never got to the scheduler."""
    nothing = np.zeros(0, dtype=np.int32)
    return RequestOutput(
        id=request_id,
        prompt_ids=nothing,
        output_ids=nothing,
        text=None,
        finish_reason=FinishReason.REFUSED,
        cached_tokens=0,
        times=RequestTimes(now_ns, None, now_ns),
        error=why,
    )
