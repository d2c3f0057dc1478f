"""Log-probabilities from a step's tensors to the jobs that asked for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.sampling.output import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.jobs import Job
    from runtime.sampling.sampler import Sampled


def note_logprobs(jobs: Sequence[Job], positions: Sequence[int], sampled: Sampled) -> None:
    """Give each job that wants them the log-probabilities of its token.

    Args:
        jobs: in the order of what was sampled.
        positions: of their tokens, each in its own sequence.
        sampled: on the CPU, with log-probabilities; as many likely tokens as any of the jobs wants.
    """
    assert sampled.logprobs is not None
    tokens, logprobs = sampled.tokens.tolist(), sampled.logprobs.tolist()
    ids = None if sampled.top_ids is None else sampled.top_ids.tolist()
    tops = None if sampled.top_logprobs is None else sampled.top_logprobs.tolist()
    for i, job in enumerate(jobs):
        wanted = job.params.logprobs
        if wanted is None:
            continue
        top: tuple[tuple[int, float], ...] = ()
        if wanted and ids is not None and tops is not None:
            top = tuple(zip(ids[i][:wanted], tops[i][:wanted], strict=True))
        job.note_logprobs(positions[i], TokenLogprobs(tokens[i], logprobs[i], top))
