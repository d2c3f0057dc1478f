"""Top-k, top-p and min-p as one threshold per row: the lowest weight that is kept.

A token's weight is its probability over that of the most likely token: exp of its logit less the
largest one, so the largest weight is exactly 1 and min-p needs no work. A threshold needs the largest
weights in order, without their ids. Where a short list is enough, the device makes that. Else the CPU
sorts whole rows (numpy does so ten times faster than torch, which sorts ids along), and a GPU halves
the range of floats until the threshold is found, thirty looks at the weights, a third of a sort. All
find the same number, so a row's result does not depend on what the others of its batch asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_LIST = 1024  # beyond that listing costs as much as the other ways
_ABOVE_ONE = 0x3F800001  # the bits of the smallest float32 above 1
_HALVINGS = 30  # 2**30 > _ABOVE_ONE


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of the rows of a batch, and what the host knows about them.

    Attributes:
        top_k: int64 (n,), 0 for all tokens.
        top_p: float64 (n,).
        min_p: float64 (n,).
        listed_k: the largest top_k of at most `LONGEST_LIST`; 0 if there is none.
        longer_k: there are larger ones.
        open_p: a row without one of the former has a top_p below 1.
    """

    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    listed_k: int
    longer_k: bool
    open_p: bool


def lowest_kept(weights: Tensor, filters: Filters) -> Tensor:
    """The lowest weight that each row's filters keep. Never waits for a GPU.

    Args:
        weights: float32 (n, vocab) in [0, 1], the largest of each row 1.
        filters: of the n rows.

    Returns:
        float32 (n, 1).
    """
    vocab = weights.shape[1]
    top_k = torch.where(filters.top_k > 0, filters.top_k, vocab).clamp(max=vocab)
    is_open = filters.longer_k or filters.open_p
    floor = weights.new_zeros(len(weights))
    if is_open and weights.device.type == "cpu":
        floor = listed_floor(sorted_down(weights), top_k, filters.top_p)
    else:
        size = min(filters.listed_k, vocab)
        if size:
            floor = listed_floor(weights.topk(size).values, top_k, filters.top_p)
        if is_open:
            found = halved_floor(weights, top_k, filters.top_p, longer_k=filters.longer_k)
            floor = torch.where(top_k > size, found, floor)
    return torch.maximum(floor, filters.min_p.float())[:, None]


def sorted_down(weights: Tensor) -> Tensor:
    """All weights of each row, the largest first: float32 (n, vocab), on the CPU."""
    negative = np.negative(weights.numpy())
    negative.sort(axis=-1)
    return torch.from_numpy(negative).neg_()


def listed_floor(listed: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """The lowest weight that top-k and top-p keep; 0 for rows whose top_k is longer than the list.

    Args:
        listed: float32 (n, size), the largest weights of each row in order.
        top_k: int64 (n,), 1 to the size of the vocabulary.
        top_p: float64 (n,), of the weight that the first `top_k` have together.

    Returns:
        float32 (n,).
    """
    size = listed.shape[1]
    last = (top_k - 1).clamp(max=size - 1)[:, None]
    cumulated = listed.cumsum(-1, dtype=torch.float64)
    target = top_p[:, None] * cumulated.gather(1, last)
    in_nucleus = torch.searchsorted(cumulated, target)  # the first that reaches it
    at = torch.where(top_p[:, None] < 1, torch.minimum(in_nucleus, last), last)
    return torch.where(top_k <= size, listed.gather(1, at)[:, 0], 0.0)


def halved_floor(weights: Tensor, top_k: Tensor, top_p: Tensor, *, longer_k: bool) -> Tensor:
    """The same for rows of any top_k, without a list.

    Args:
        weights: float32 (n, vocab).
        top_k: int64 (n,), 1 to the size of the vocabulary.
        top_p: float64 (n,).
        longer_k: whether a row for which this matters has a top_k below the size of the vocabulary.

    Returns:
        float32 (n,).
    """
    floor = weights.new_zeros(len(weights))
    total = weights.sum(-1, dtype=torch.float64)
    if longer_k:
        floor = _highest_floor(weights, top_k, mass=False)
        above = weights > floor[:, None]
        total = (weights * above).sum(-1, dtype=torch.float64)
        total += (top_k - above.sum(-1)) * floor  # of tokens that tie, top-k counts some
    nucleus = _highest_floor(weights, top_p * total, mass=True)
    return torch.where(top_p < 1, torch.maximum(nucleus, floor), floor)


def _highest_floor(weights: Tensor, target: Tensor, *, mass: bool) -> Tensor:
    """The highest weight such that those not below it sum up (or count) to the target: float32 (n,).

    The bits of floats that are not negative are ordered as the floats are, so the range of bits is
    halved until one is left.
    """
    low = torch.zeros(len(weights), dtype=torch.int32, device=weights.device)
    high = torch.full_like(low, _ABOVE_ONE)
    for _ in range(_HALVINGS):
        middle = (low + high) // 2
        kept = weights >= middle.view(torch.float32)[:, None]
        measure = (weights * kept).sum(-1, dtype=torch.float64) if mass else kept.sum(-1)
        reached = measure >= target
        low = torch.where(reached, middle, low)
        high = torch.where(reached, high, middle)
    return low.view(torch.float32)
