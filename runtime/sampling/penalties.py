"""Repetition, presence and frequency penalties, from counts of tokens kept on the device.

A sampled token is counted where it is sampled, so the next step's penalties are right although the
host has not seen the token yet. Only rows that penalise have counts: 5 bytes per vocabulary entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from runtime.sampling.slots import Slots, grown, upload

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    IntArray = npt.NDArray[np.integer]


class TokenCounts:
    """How often each token occurred in a row's output, and whether it did in its prompt."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self.slots = Slots()
        self._nobody = (
            torch.zeros((1, vocab_size), dtype=torch.int32, device=device),
            torch.zeros((1, vocab_size), dtype=torch.bool, device=device),
        )
        self._output, self._prompt = self._nobody
        self._starts: dict[int, tuple[IntArray, IntArray]] = {}  # by slot, to be carried out

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return self._output.nbytes + self._prompt.nbytes

    def start(self, row: int, prompt_ids: IntArray, output_ids: IntArray) -> int:
        """Count a row's tokens afresh, when the next step is prepared; returns its slot."""
        slot = self.slots.take(row)
        self._starts[slot] = (np.unique(prompt_ids), output_ids)
        return slot

    def release(self, row: int) -> None:
        """A row's counts are not needed any more; with the last row's the memory goes."""
        slot = self.slots.release(row)
        if slot is not None:
            self._starts.pop(slot, None)
        if self.slots.used == 1:
            self._output, self._prompt = self._nobody

    def prepare(self) -> None:
        """Carry out on the device what was asked for since the last step."""
        if not self._starts:
            return
        shape = (self.slots.used, self._vocab_size)
        self._output, self._prompt = grown(self._output, shape), grown(self._prompt, shape)
        for slot, (prompt_ids, output_ids) in self._starts.items():
            self._output[slot].zero_()
            self._prompt[slot].zero_()
            prompt = upload(prompt_ids.astype(np.int64), self._device)
            self._prompt[slot].index_fill_(0, prompt, value=True)
            ids, counts = np.unique(output_ids, return_counts=True)
            output = upload(ids.astype(np.int64), self._device)
            self._output[slot].index_copy_(0, output, upload(counts.astype(np.int32), self._device))
        self._starts.clear()

    def penalise(
        self, logits: Tensor, slots: Tensor, repetition: Tensor, presence: Tensor, frequency: Tensor
    ) -> None:
        """Lower the logits of tokens that occurred, in place.

        Args:
            logits: float32 (n, vocab).
            slots: int64 (n,): each row's, 0 for one that does not penalise.
            repetition: float32 (n,); logits of tokens in prompt or output are divided by it where
                positive, else multiplied.
            presence: float32 (n,), taken off for tokens that were output.
            frequency: float32 (n,), taken off as often as a token was output.
        """
        counts = self._output[slots]
        was_output = counts > 0
        factor = repetition[:, None]
        repeated = torch.where(logits > 0, logits / factor, logits * factor)
        torch.where(was_output | self._prompt[slots], repeated, logits, out=logits)
        logits.sub_(counts * frequency[:, None]).sub_(was_output * presence[:, None])

    def count(self, slots: Tensor, tokens: Tensor) -> None:
        """One more of each token, int64 (n,), in the outputs of the rows with these slots."""
        at = slots * self._vocab_size + tokens
        self._output.view(-1).index_add_(0, at, torch.ones_like(at, dtype=torch.int32))
