"""Paged attention by the project's own Triton kernels, on CUDA (and in Triton's interpreter).

Tokens of sequences that decode go to the decode kernel, those of all others to the extend kernel; a
mixed step launches both. Nothing is tuned at run time: block sizes follow from head_dim and dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from runtime.attention.base import AttentionBackend, Sequences, check_heads
from runtime.attention.graph_buffers import DecodeBuffers
from runtime.kernels.paged_decode import DecodeRows, paged_decode, room_for_parts
from runtime.kernels.paged_extend import extend_tiles, paged_extend, tile_tokens

if TYPE_CHECKING:
    from runtime.kv_cache import KVCache

SHORTEST_PART = 256  # KV tokens; cutting finer costs more in merging than it gains
MOST_PARTS = 64
PROGRAMS_PER_PROCESSOR = 4  # decode programs that a multiprocessor hides its loads behind


class TritonAttention:
    """See `AttentionBackend`; float32, bfloat16 and float16, head_dim up to 256."""

    name = "triton"

    def __init__(self, cache: KVCache, q_heads: int, *, scale: float | None = None) -> None:
        self._cache = cache
        self._q_heads = q_heads
        self._group = check_heads(cache, q_heads)
        self._scale = cache.head_dim**-0.5 if scale is None else scale
        self._programs = PROGRAMS_PER_PROCESSOR * _processors(cache.device)
        self._seqs: Sequences | None = None
        self._decode: DecodeRows | None = None
        self._tiles: torch.Tensor | None = None

    def plan(self, seqs: Sequences) -> None:
        """See `AttentionBackend`."""
        self._seqs = seqs
        self._decode = self._decode_rows(seqs)
        self._tiles = None
        if not seqs.decode_only:
            cache = self._cache
            tiles = extend_tiles(seqs, tile_tokens(self._group, cache.head_dim, cache.dtype))
            if len(tiles):
                self._tiles = _to_device(tiles, cache.device)

    def _decode_rows(self, seqs: Sequences) -> DecodeRows | None:
        if seqs.decode_only:
            rows = torch.arange(seqs.count, dtype=torch.int32, device=self._cache.device)
            tokens, longest = rows, int(seqs.kv_lens.max())
        else:
            sequences = torch.where(seqs.qo_indptr.diff() == 1)[0]
            if len(sequences) == 0:
                return None
            packed = torch.stack((sequences, seqs.qo_indptr[sequences])).int()
            rows, tokens = _to_device(packed, self._cache.device).unbind(0)
            longest = int(seqs.kv_lens[sequences].max())
        parts = self._parts(len(rows), longest)
        room = room_for_parts(len(rows), self._q_heads, parts, self._cache)
        return DecodeRows(rows, tokens, seqs.kv_lens_dev, seqs.page_table_dev, *room, parts)

    def _parts(self, rows: int, longest: int) -> int:
        """Enough parts to keep the device busy, none of them too short."""
        wanted = self._programs // (rows * self._cache.kv_heads)
        return max(1, min(wanted, longest // SHORTEST_PART, MOST_PARTS))

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See `AttentionBackend`."""
        assert self._seqs is not None, "attend before plan"
        self._cache.write(layer, self._seqs.slots, k, v)
        q = q.contiguous()
        out = torch.empty_like(q)
        if self._decode is not None:
            paged_decode(q, self._cache, layer, self._decode, self._scale, out)
        if self._tiles is not None:
            paged_extend(q, self._cache, layer, self._tiles, self._seqs, self._scale, out)
        return out

    def for_graph(self, batch_size: int, max_pages: int) -> AttentionBackend:
        """See `AttentionBackend`."""
        return _GraphTritonAttention(
            self._cache, self._q_heads, batch_size, max_pages, scale=self._scale
        )


class _GraphTritonAttention(TritonAttention):
    """Decoding out of fixed buffers, cut into as many parts as the longest sequence calls for."""

    def __init__(
        self, cache: KVCache, q_heads: int, batch_size: int, max_pages: int, *, scale: float
    ) -> None:
        super().__init__(cache, q_heads, scale=scale)
        self._buffers = DecodeBuffers(batch_size, max_pages, cache.device)
        parts = self._parts(batch_size, max_pages * cache.page_size)
        rows = torch.arange(batch_size, dtype=torch.int32, device=cache.device)
        self._fixed = DecodeRows(
            rows,
            rows,
            self._buffers.kv_lens,
            self._buffers.page_table,
            *room_for_parts(batch_size, q_heads, parts, cache),
            parts,
        )

    def plan(self, seqs: Sequences) -> None:
        self._buffers.fill(seqs)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self._cache.write(layer, self._buffers.slots, k, v)
        q = q.contiguous()
        out = torch.empty_like(q)
        paged_decode(q, self._cache, layer, self._fixed, self._scale, out)
        return out


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 8  # the interpreter: few, and more than one part of what is long
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _to_device(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy that does not wait for the kernels before it, as one from pageable memory would."""
    if device.type == "cpu":
        return host
    return host.pin_memory().to(device, non_blocking=True)
