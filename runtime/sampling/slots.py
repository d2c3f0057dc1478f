"""Compact slots for rows that need what most do not, so that memory goes with need.

Counts of tokens for every row of a large table would be gigabytes. Slot 0 belongs to nobody: rows
without a slot read and write there, which has no effect on them.
"""

from __future__ import annotations

import numpy as np
import torch


class Slots:
    """Which slot belongs to which row; the lowest free one is handed out next."""

    def __init__(self) -> None:
        self._slot_of: dict[int, int] = {}
        self._free: list[int] = []
        self.used = 1  # slots ever handed out, and slot 0: tables need so many entries

    def take(self, row: int) -> int:
        """The row's slot: the one it has, or a free one."""
        slot = self._slot_of.get(row)
        if slot is None:
            if self._free:
                slot = min(self._free)
                self._free.remove(slot)
            else:
                slot = self.used
                self.used += 1
            self._slot_of[row] = slot
        return slot

    def release(self, row: int) -> int | None:
        """The row needs none; returns the slot it had, if any. With the last one all begin anew."""
        slot = self._slot_of.pop(row, None)
        if slot is not None:
            self._free.append(slot)
        if not self._slot_of:
            self._free.clear()
            self.used = 1
        return slot

    def check_integrity(self) -> None:
        """Every slot but 0 is free or one row's."""
        held = [*self._slot_of.values(), *self._free]
        assert sorted(held) == list(range(1, self.used)), f"slots {held} of {self.used}"


def upload(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], device: torch.device
) -> torch.Tensor:
    """A copy on the device that the host does not wait for; pinned memory stays until it is done."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return host.clone()
    return host.pin_memory().to(device, non_blocking=True)


def grown(table: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The table with at least that shape: doubled until it fits, what is new filled with zeros."""
    sizes = list(table.shape)
    for at, wanted in enumerate(shape):
        while sizes[at] < wanted:
            sizes[at] = max(1, 2 * sizes[at])
    if sizes == list(table.shape):
        return table
    larger = table.new_zeros(sizes)
    larger[tuple(slice(size) for size in table.shape)] = table
    return larger
