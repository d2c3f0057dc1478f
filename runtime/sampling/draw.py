"""From logits to a random token: weights, and the token at which their sum exceeds a number.

Sums are taken of blocks first and then within one block of each row, so no running sum over the
vocabulary is written. Weights are summed in double precision, in the order of ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 128  # divides most vocabularies, so that no padding is needed
_BELOW_ONE = 1 - 2.0**-52


class Weights:
    """Memory for the weights of a batch, kept from step to step; the CPU's would be mapped anew."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._padded = -(-vocab_size // BLOCK) * BLOCK
        self._memory = torch.zeros((0, self._padded), dtype=torch.float32, device=device)

    def of(self, logits: Tensor, temperature: Tensor) -> Tensor:
        """Each token's probability over the most likely one's.

        The largest logit is taken off first, so that small temperatures cannot overflow.

        Args:
            logits: float32 (n, vocab).
            temperature: (n,), above 0.

        Returns:
            float32 (n, vocab), the largest of each row 1; valid until the next call.
        """
        n = len(logits)
        if n > len(self._memory):
            self._memory = self._memory.new_zeros((n, self._padded))
        weights = self._memory[:n, : self._vocab_size]
        torch.sub(logits, logits.amax(-1, keepdim=True), out=weights)
        return weights.div_(temperature.float()[:, None]).exp_()

    def draw(self, numbers: Tensor) -> Tensor:
        """A token for each row, with a probability in proportion to its weight.

        Args:
            numbers: float64 (n,) in [0, 1), for the rows of the last call of `of`, whose result may
                have been changed in place.

        Returns:
            int64 (n,): the first id up to which the weights exceed this share of their sum. An id of
            weight 0 is never drawn.
        """
        blocks = self._memory[: len(numbers)].view(len(numbers), -1, BLOCK)
        sums = blocks.sum(-1, dtype=torch.float64)
        reached = sums.cumsum(-1)
        target = numbers[:, None] * reached[:, -1:]
        # weights of NaN make a wrong token, not a wild one: hence the clamps
        block = torch.searchsorted(reached, target, right=True).clamp_(max=blocks.shape[1] - 1)
        before = torch.where(block > 0, reached.gather(1, (block - 1).clamp_min_(0)), 0.0)
        chosen = blocks.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0]
        inside = chosen.cumsum(-1, dtype=torch.float64)
        rest = torch.minimum(target - before, inside[:, -1:] * _BELOW_ONE)  # sums may round apart
        place = torch.searchsorted(inside, rest, right=True)
        return (block * BLOCK + place)[:, 0].clamp_(max=self._vocab_size - 1)
