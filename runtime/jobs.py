"""A job: a request as the runtime serves it, with what the scheduler need not know.

The scheduler sees the request, which reads token ids from the job's log. The job holds how tokens are
sampled, what ends it, and who is told. Tokens are written by their position, so one that is computed
again after a retraction lands where the first was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from policies.request import State

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from policies.request import Request
    from policies.tokens import TokenLog
    from runtime.sampling.output import TokenLogprobs
    from runtime.sampling.params import SamplingParams


class StopRule(Protocol):
    """Decides on the host whether a sampled token ends an output by itself."""

    def ends(self, output: npt.NDArray[np.int32]) -> bool:
        """Whether the last of these output ids ends it; those before it did not."""
        ...

    def restart(self) -> None:
        """Forget the output so far: it may come differently."""
        ...


class Listener(Protocol):
    """Who is told what becomes of a job. Called from the thread that drives the world: be quick."""

    def token(self, job: Job, token: int) -> None:
        """A token was accepted: the job's next."""
        ...

    def ended(self, job: Job, now_ns: int) -> None:
        """The job ended, in whatever way; `job.request` says how."""
        ...


class Job:
    """See the module.

    Args:
        request: what the scheduler sees; its tokens come from `log`.
        log: the prompt, and the outputs as they are sampled.
        params: how to sample.
        stop: what ends it besides its length; None for nothing.
        listener: who is told; None for nobody.
        seed: of its random choices, where the parameters give none.
        wants_tokens: whether the listener is told of every token, or only of the end.

    Attributes:
        first_token_ns: when its first token was accepted; None before.
        logprobs: of each output token, where asked for.
        error: what went wrong, if the device failed it.
    """

    __slots__ = (
        "error",
        "first_token_ns",
        "listener",
        "log",
        "logprobs",
        "params",
        "request",
        "seed",
        "stop",
        "wants_tokens",
    )

    def __init__(
        self,
        request: Request,
        log: TokenLog,
        params: SamplingParams,
        stop: StopRule | None = None,
        listener: Listener | None = None,
        *,
        seed: int = 0,
        wants_tokens: bool = False,
    ) -> None:
        self.request = request
        self.seed = seed
        self.log = log
        self.params = params
        self.stop = stop
        self.listener = listener
        self.wants_tokens = wants_tokens and listener is not None
        self.first_token_ns: int | None = None
        self.logprobs: list[TokenLogprobs] = []
        self.error: str | None = None

    def take(self, position: int, token: int) -> bool:
        """Note the token sampled for a position; returns whether it ends the output by itself.

        The scheduler may still drop it: then it is sampled again.
        """
        log, request = self.log, self.request
        log.write(position - log.prompt_len, token)
        if self.stop is None or request.state is State.FINISHED:
            return False
        return self.stop.ends(log.read(position + 1)[log.prompt_len :])

    def note_logprobs(self, position: int, logprobs: TokenLogprobs) -> None:
        """Note the log-probabilities of the token sampled for a position."""
        self.logprobs[position - self.log.prompt_len :] = [logprobs]

    def output(self) -> npt.NDArray[np.int32]:
        """The output ids accepted so far, no more than were asked for."""
        prompt, request = self.log.prompt_len, self.request
        count = min(request.output_len, request.requested_max_new_tokens)
        return self.log.read(prompt + count)[prompt:]
