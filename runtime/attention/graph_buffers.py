"""The fixed buffers that a captured decode step reads: a CUDA graph replays addresses, not arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from runtime.attention.base import Sequences


class DecodeBuffers:
    """Page table, KV lengths and slots of exactly so many decoding sequences.

    Until the first `fill` every sequence is padding: KV length 1, on page 0.

    Attributes:
        page_table: int32 (batch_size, max_pages).
        kv_lens: int32 (batch_size,).
        slots: int64 (batch_size,).
    """

    def __init__(self, batch_size: int, max_pages: int, device: torch.device) -> None:
        if batch_size < 1 or max_pages < 1:
            msg = (
                "a graph needs at least one sequence and one page of each, "
                f"got {batch_size} and {max_pages}"
            )
            raise ValueError(msg)
        self.page_table = torch.zeros((batch_size, max_pages), dtype=torch.int32, device=device)
        self.kv_lens = torch.ones(batch_size, dtype=torch.int32, device=device)
        self.slots = torch.zeros(batch_size, dtype=torch.int64, device=device)

    def fill(self, seqs: Sequences) -> None:
        """Copy a step in, on the current stream; it does not wait.

        Raises:
            ValueError: the step is not what these buffers were made for.
        """
        batch_size, max_pages = self.page_table.shape
        if not seqs.decode_only or seqs.count != batch_size:
            msg = (
                f"this graph decodes {batch_size} sequences of one new token each; the step has "
                f"{seqs.count}, with {seqs.slots.shape[0]} new tokens"
            )
            raise ValueError(msg)
        width = seqs.page_table.shape[1]
        if width > max_pages:
            msg = f"this graph takes {max_pages} pages a sequence; the page table has {width}"
            raise ValueError(msg)
        self.page_table[:, :width].copy_(seqs.page_table_dev, non_blocking=True)
        self.kv_lens.copy_(seqs.kv_lens_dev, non_blocking=True)
        self.slots.copy_(seqs.slots, non_blocking=True)
