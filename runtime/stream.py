"""What one request answers, as its client sees it: token by token, or whole when it has ended.

Tokens come from the thread that drives the world and wait here; text is made of them in the client's own
thread, so that it costs the world nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

from policies.request import FinishReason
from runtime.sampling.output import RequestOutput, RequestTimes
from runtime.sampling.stops import Stops

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runtime.jobs import Job
    from runtime.weights.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Delta:
    """What an answer has gained.

    Attributes:
        tokens: ids, in order.
        text: what is certain of the text and was not before; "" without a tokenizer.
    """

    tokens: tuple[int, ...]
    text: str


class Answer:
    """A job's answer; makes itself the job's listener. See the module.

    Args:
        job: before it is submitted.
        tokenizer: makes text; None where there is none.
        eos_ids: the model's own ends.
        every_token: whether tokens are told as they come, so that `deltas` can give them.
    """

    def __init__(
        self,
        job: Job,
        tokenizer: Tokenizer | None,
        eos_ids: Sequence[int],
        *,
        every_token: bool,
    ) -> None:
        self.job = job
        job.listener, job.wants_tokens = self, every_token
        self._tokenizer = tokenizer
        self._eos_ids = tuple(eos_ids)
        self._tokens: SimpleQueue[int | None] = SimpleQueue()
        self._ended = Event()
        self._end_ns = 0
        self._output: RequestOutput | None = None

    # -- told by the world --------------------------------------------------------------------

    def token(self, job: Job, token: int) -> None:  # noqa: ARG002
        """See `Listener`."""
        self._tokens.put(token)

    def ended(self, job: Job, now_ns: int) -> None:  # noqa: ARG002
        """See `Listener`."""
        self._end_ns = now_ns
        self._ended.set()
        self._tokens.put(None)

    # -- asked by the client ------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most `timeout` seconds if given; returns whether it has come."""
        return self._ended.wait(timeout)

    def result(self, timeout: float | None = None) -> RequestOutput:
        """The whole answer; waits for its end.

        Args:
            timeout: seconds to wait at most; None for as long as it takes.

        Raises:
            TimeoutError: where it has not ended by then.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"the request has not ended within {timeout} s")
        if self._output is None:
            self._output = make_output(self.job, self._end_ns, self._tokenizer, self._eos_ids)
        return self._output

    def deltas(self) -> Iterator[Delta]:
        """The answer as it grows, until it ends. Can be gone through once."""
        job, stops = self.job, None
        if self._tokenizer is not None:
            stops = Stops(job.params, self._eos_ids, self._tokenizer, text=True)
        prompt, count = job.log.prompt_len, 0
        while (token := self._tokens.get()) is not None:
            count += 1
            if count > job.request.requested_max_new_tokens:
                continue  # none were asked for, and one is always sampled
            text = ""
            if stops is not None:
                stops.ends(job.log.read(prompt + count)[prompt:])
                text = stops.take()
            yield Delta((token,), text)
        if stops is not None:
            stops.finish(job.output())
            if rest := stops.take():
                yield Delta((), rest)


def make_output(
    job: Job, end_ns: int, tokenizer: Tokenizer | None, eos_ids: Sequence[int]
) -> RequestOutput:
    """What the client of a job that ended gets."""
    request = job.request
    ids = job.output().copy()
    text: str | None = None
    stops = None
    if tokenizer is not None:
        stops = Stops(job.params, eos_ids, tokenizer, text=True)
    elif request.finish_reason is FinishReason.STOP:
        stops = Stops(job.params, eos_ids)
    if stops is not None:
        if len(ids):
            stops.ends(ids)
        stops.finish(ids)
        text = None if tokenizer is None else stops.text
    stopped = request.finish_reason is FinishReason.STOP and stops is not None
    return RequestOutput(
        id=request.id,
        prompt_ids=job.log.read(job.log.prompt_len).copy(),
        output_ids=ids,
        text=text,
        finish_reason=request.finish_reason or FinishReason.ABORT,
        cached_tokens=request.cached_tokens,
        times=RequestTimes(request.arrival_ns, job.first_token_ns, end_ns),
        stop_reason=stops.reason if stopped and stops is not None else None,
        logprobs=None if job.params.logprobs is None else tuple(job.logprobs[: len(ids)]),
        error=job.error or request.refusal,
    )
