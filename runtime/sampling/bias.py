"""What is added to the logits of a few tokens of a row: a client's logit bias, or a ban.

Lists of ids and values, one for each row that has any, padded to the longest with a bias of 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from runtime.sampling.slots import Slots, grown, upload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class BiasLists:
    """Token ids with what to add to their logits, by row."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.slots = Slots()
        self._nobody = (
            torch.zeros((1, 1), dtype=torch.int64, device=device),
            torch.zeros((1, 1), dtype=torch.float32, device=device),
        )
        self._ids, self._values = self._nobody
        self._starts: dict[int, Mapping[int, float]] = {}  # by slot, to be carried out

    def start(self, row: int, bias: Mapping[int, float]) -> int:
        """Set a row's list, when the next step is prepared; returns its slot."""
        slot = self.slots.take(row)
        self._starts[slot] = bias
        return slot

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return self._ids.nbytes + self._values.nbytes

    def release(self, row: int) -> None:
        """A row's list is not needed any more; with the last one the memory goes."""
        slot = self.slots.release(row)
        if slot is not None:
            self._starts.pop(slot, None)
        if self.slots.used == 1:
            self._ids, self._values = self._nobody

    def prepare(self) -> None:
        """Carry out on the device what was asked for since the last step."""
        if not self._starts:
            return
        shape = (self.slots.used, max(map(len, self._starts.values())))
        self._ids, self._values = grown(self._ids, shape), grown(self._values, shape)
        width = self._ids.shape[1]
        ids = np.zeros((len(self._starts), width), dtype=np.int64)
        values = np.zeros((len(self._starts), width), dtype=np.float32)
        for at, bias in enumerate(self._starts.values()):
            ids[at, : len(bias)] = list(bias.keys())
            values[at, : len(bias)] = list(bias.values())
        slots = upload(np.array(list(self._starts), dtype=np.int64), self._device)
        self._ids.index_copy_(0, slots, upload(ids, self._device))
        self._values.index_copy_(0, slots, upload(values, self._device))
        self._starts.clear()

    def add(self, logits: Tensor, slots: Tensor, where: Tensor | None = None) -> None:
        """Add to the logits, in place.

        Args:
            logits: float32 (n, vocab).
            slots: int64 (n,): each row's, 0 for one without a list.
            where: bool (n,): only to these rows.
        """
        values = self._values[slots]
        if where is not None:
            values = torch.where(where[:, None], values, 0.0)
        logits.scatter_add_(1, self._ids[slots], values)
