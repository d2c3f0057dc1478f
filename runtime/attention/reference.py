"""Attention as it is defined: one sequence after another, dense, in float32.

The readable version that every other backend is held against. It knows no trick, and is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from runtime.attention.base import AttentionBackend, Sequences, check_heads

if TYPE_CHECKING:
    from runtime.kv_cache import KVCache


class ReferenceAttention:
    """See `AttentionBackend`; anywhere, any dtype."""

    name = "reference"

    def __init__(self, cache: KVCache, q_heads: int, *, scale: float | None = None) -> None:
        self._cache = cache
        self._group = check_heads(cache, q_heads)
        self._scale = cache.head_dim**-0.5 if scale is None else scale
        self._seqs: Sequences | None = None

    def plan(self, seqs: Sequences) -> None:
        """See `AttentionBackend`."""
        self._seqs = seqs

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See `AttentionBackend`."""
        assert self._seqs is not None, "attend before plan"
        seqs, cache = self._seqs, self._cache
        cache.write(layer, seqs.slots, k, v)
        out = torch.empty_like(q)
        for i in range(seqs.count):
            start, stop = int(seqs.qo_indptr[i]), int(seqs.qo_indptr[i + 1])
            length = int(seqs.kv_lens[i])
            pages = seqs.page_table[i, : -(-length // cache.page_size)].long().to(cache.device)
            keys, values = (
                kv[layer][pages]
                .flatten(0, 1)[:length]
                .float()
                .repeat_interleave(self._group, dim=1)
                for kv in (cache.k, cache.v)
            )  # (length, q_heads, head_dim)
            scores = torch.einsum("qhd,khd->hqk", q[start:stop].float(), keys) * self._scale
            at = torch.arange(length, device=q.device)
            mine = at[length - (stop - start) :]
            scores.masked_fill_(at > mine[:, None], float("-inf"))
            out[start:stop] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(q.dtype)
        return out

    def for_graph(self, batch_size: int, max_pages: int) -> AttentionBackend:
        """Always an error: it reads lengths on the host.

        Raises:
            NotImplementedError: always.
        """
        msg = "the reference attention cannot be captured in a CUDA graph; choose another backend"
        raise NotImplementedError(msg)
