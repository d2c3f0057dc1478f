"""What the sampler does, for one row, in plain steps: the version to read and to test against.

In double precision and on the host, where the batched sampler computes weights in float32; the two
differ only where a weight, or the random number, is within rounding of a threshold.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

    from runtime.sampling.params import SamplingParams

    Floats = npt.NDArray[np.float64]

_WORD = 2**64


def sample_row(
    logits: Floats,
    params: SamplingParams,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    *,
    eos_ids: Collection[int] = (),
    seed: int = 0,
) -> int:
    """The token that follows prompt and outputs.

    Args:
        logits: float64 (vocab,).
        params: the request's.
        prompt_ids: its prompt.
        output_ids: its outputs so far.
        eos_ids: the model's own ends.
        seed: taken where the request gives none.
    """
    logits = shape(logits, params, prompt_ids, output_ids, eos_ids=eos_ids)
    if params.greedy:
        return int(np.argmax(logits))  # the lowest id of several
    probabilities = distribution(logits, params)
    number = uniform(
        seed if params.seed is None else params.seed, len(prompt_ids) + len(output_ids)
    )
    return int(np.searchsorted(np.cumsum(probabilities), number, side="right"))


def shape(
    logits: Floats,
    params: SamplingParams,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    *,
    eos_ids: Collection[int] = (),
) -> Floats:
    """The logits with penalties, logit bias, and the ends banned that would come too early."""
    logits = logits.copy()
    for token in {*prompt_ids, *output_ids}:
        factor = params.repetition_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token in output_ids:
        logits[token] -= params.frequency_penalty
    for token in set(output_ids):
        logits[token] -= params.presence_penalty
    for token, bias in params.logit_bias.items():
        logits[token] += bias
    if len(output_ids) < params.min_new_tokens:
        for token in params.end_ids(eos_ids):
            logits[token] = -math.inf
    return logits


def distribution(logits: Floats, params: SamplingParams) -> Floats:
    """Probabilities of the tokens under temperature, top-k, top-p and min-p: float64 (vocab,)."""
    probabilities = np.exp((logits - logits.max()) / params.temperature)
    probabilities /= probabilities.sum()
    listed = np.sort(probabilities)[::-1][: params.top_k]
    least = listed[-1]
    if params.top_p < 1:
        least = listed[int(np.sum(np.cumsum(listed) < params.top_p * listed.sum()))]
    probabilities[probabilities < least] = 0
    probabilities[probabilities < params.min_p * probabilities.max()] = 0
    return np.asarray(probabilities / probabilities.sum())


def log_probabilities(logits: Floats) -> Floats:
    """Of the model's own distribution: float64 (vocab,)."""
    above = logits - logits.max()
    return np.asarray(above - np.log(np.exp(above).sum()))


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) for a seed and a position."""
    state = (_mixed(seed % _WORD) + (position + 1) * 0x9E3779B97F4A7C15) % _WORD
    return float(_mixed(state) >> 11) * 2.0**-53


def _mixed(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % _WORD
    return x ^ (x >> 31)
