"""Paged attention in plain torch: runs anywhere, and is made to be fast on a CPU.

Decoding sequences are gathered, token by token, from their pages into one padded block of shape
(sequences * kv_heads, tokens, head_dim) and attended to with two batched matmuls in float32 whatever
the cache's dtype: exact, and on CPUs faster than the fused kernel, which is built for many queries.
Padding repeats the sequence's own last token behind a mask, so nothing of another request is ever
touched. Sequences whose lengths differ much go into blocks of their own.

Sequences with more new tokens go one by one through torch's fused kernel, some queries at a time so
that the mask stays small and the keys in their future are not computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import scaled_dot_product_attention

from runtime.attention.base import AttentionBackend, Sequences, check_heads
from runtime.attention.graph_buffers import DecodeBuffers

if TYPE_CHECKING:
    from runtime.kv_cache import KVCache

PADDING_TOKENS = 1024  # a block may waste so many before another block, with its calls, is cheaper
# Bytes of float32 keys, or of values, gathered at once: on a CPU what its caches can hold, so that
# what is gathered is still there when it is multiplied (measured: 20 to 30 % over one large block).
CPU_BLOCK_BYTES = 4 << 20
BLOCK_BYTES = 256 << 20
QUERY_BLOCK = 512  # queries that share one mask


@dataclass(frozen=True, slots=True)
class DecodeBlock:
    """Decoding sequences that are attended to together.

    Attributes:
        tokens: int64 (m,): where their query tokens are in the step; None: all of them, in order.
        kv_rows: int64 (m * kv_heads * length,): rows of the cache seen as (slots * kv_heads,
            head_dim) that make up the block.
        mask: float32 (m, 1, 1, length), -inf on padding; None where there is none.
        length: tokens of the longest.
    """

    tokens: torch.Tensor | None
    kv_rows: torch.Tensor
    mask: torch.Tensor | None
    length: int


@dataclass(frozen=True, slots=True)
class Extend:
    """A sequence with several new tokens: tokens [start, stop) of the step.

    `slots`, int64 (length,), are those of its whole KV; None where all of it is new.
    """

    start: int
    stop: int
    length: int
    slots: torch.Tensor | None


class TorchAttention:
    """See `AttentionBackend`; anywhere, float32, bfloat16 and float16."""

    name = "torch"

    def __init__(self, cache: KVCache, q_heads: int, *, scale: float | None = None) -> None:
        self._cache = cache
        self._q_heads = q_heads
        self._group = check_heads(cache, q_heads)
        self._scale = cache.head_dim**-0.5 if scale is None else scale
        self._seqs: Sequences | None = None
        self._blocks: list[DecodeBlock] = []
        self._extends: list[Extend] = []
        self._gathered = _Gathered(cache)

    def plan(self, seqs: Sequences) -> None:
        """See `AttentionBackend`."""
        self._seqs = seqs
        bounds, kv_lens = seqs.qo_indptr.tolist(), seqs.kv_lens.tolist()
        self._extends = [
            self._extend(seqs, i, bounds[i], bounds[i + 1], kv_lens[i])
            for i in range(seqs.count)
            if bounds[i + 1] - bounds[i] > 1
        ]
        decoding = [i for i in range(seqs.count) if bounds[i + 1] - bounds[i] == 1]
        room = CPU_BLOCK_BYTES if self._cache.device.type == "cpu" else BLOCK_BYTES
        limit = room // (4 * self._cache.kv_heads * self._cache.head_dim)
        groups = similar_lengths([kv_lens[i] for i in decoding], limit)
        self._blocks = [
            self._block(seqs, [decoding[j] for j in group], whole=len(group) == seqs.count)
            for group in groups
        ]

    def _extend(self, seqs: Sequences, i: int, start: int, stop: int, length: int) -> Extend:
        if stop - start == length:
            return Extend(start, stop, length, None)
        at = torch.arange(length, device=self._cache.device)
        slots = slots_at(seqs.page_table_dev[i : i + 1], at[None], self._cache.page_size)
        return Extend(start, stop, length, slots[0])

    def _block(self, seqs: Sequences, rows: list[int], *, whole: bool) -> DecodeBlock:
        host = torch.tensor(rows)
        picked = None if whole else host.to(self._cache.device)
        table, kv_lens = seqs.page_table_dev, seqs.kv_lens_dev
        if picked is not None:
            table, kv_lens = table[picked], kv_lens[picked]
        length = int(seqs.kv_lens[host].max())
        even = length == int(seqs.kv_lens[host].min())
        kv_rows, mask = padded_rows(table, kv_lens, length, self._cache)
        return DecodeBlock(
            tokens=None if picked is None else seqs.qo_indptr_dev[picked].long(),
            kv_rows=kv_rows,
            mask=None if even else mask,
            length=length,
        )

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See `AttentionBackend`."""
        assert self._seqs is not None, "attend before plan"
        self._cache.write(layer, self._seqs.slots, k, v)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for block in self._blocks:
            if block.tokens is None:
                out.copy_(self._decode(layer, q, block))
            else:
                out[block.tokens] = self._decode(layer, q[block.tokens], block).to(q.dtype)
        for extend in self._extends:
            self._attend_extend(layer, extend, q, k, v, out)
        return out

    def _decode(self, layer: int, q: torch.Tensor, block: DecodeBlock) -> torch.Tensor:
        """Queries (m, q_heads, head_dim) over a block: float32, of q's shape."""
        cache = self._cache
        keys, values = self._gathered.read(layer, block.kv_rows, block.length)
        queries = (q.float() * self._scale).reshape(-1, self._group, cache.head_dim)
        scores = torch.bmm(queries, keys.transpose(1, 2))  # (m * kv_heads, group, length)
        if block.mask is not None:
            scores.view(q.shape[0], cache.kv_heads, self._group, -1).add_(block.mask)
        return torch.bmm(scores.softmax(-1), values).view(q.shape)

    def _attend_extend(
        self,
        layer: int,
        extend: Extend,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        start, stop, length = extend.start, extend.stop, extend.length
        if extend.slots is None:
            keys, values = k[start:stop], v[start:stop]
        else:
            keys = self._cache.k_slots[layer][extend.slots]
            values = self._cache.v_slots[layer][extend.slots]
        # KV heads stand in the batch dimension and their queries in the head dimension, so that each
        # KV head is shared (stride 0) rather than repeated.
        grouped = (stop - start, self._cache.kv_heads, self._group, self._cache.head_dim)
        queries = q[start:stop].view(grouped).permute(1, 2, 0, 3)
        answers = out[start:stop].view(grouped).permute(1, 2, 0, 3)
        keys, values = (
            kv.transpose(0, 1)[:, None].expand(-1, self._group, -1, -1) for kv in (keys, values)
        )
        prefix = length - (stop - start)
        for first in range(0, stop - start, QUERY_BLOCK):
            block = queries[:, :, first : first + QUERY_BLOCK]
            seen = prefix + first + block.shape[2]
            at = torch.arange(seen, device=q.device)
            answers[:, :, first : first + QUERY_BLOCK] = scaled_dot_product_attention(
                block,
                keys[:, :, :seen],
                values[:, :, :seen],
                attn_mask=None if first + prefix == 0 else at <= at[prefix + first :, None],
                is_causal=first + prefix == 0,
                scale=self._scale,
            )

    def for_graph(self, batch_size: int, max_pages: int) -> AttentionBackend:
        """See `AttentionBackend`. Every replay reads `max_pages` pages of each sequence."""
        return _GraphTorchAttention(
            self._cache, self._q_heads, batch_size, max_pages, scale=self._scale
        )


class _GraphTorchAttention(TorchAttention):
    """Decoding with everything in fixed buffers, over one block as long as can be."""

    def __init__(
        self, cache: KVCache, q_heads: int, batch_size: int, max_pages: int, *, scale: float
    ) -> None:
        super().__init__(cache, q_heads, scale=scale)
        self._buffers = DecodeBuffers(batch_size, max_pages, cache.device)
        length = max_pages * cache.page_size
        self._kv_rows, self._mask = self._rows(length)
        self._block_of_all = DecodeBlock(None, self._kv_rows, self._mask, length)

    def _rows(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        buffers = self._buffers
        return padded_rows(buffers.page_table, buffers.kv_lens, length, self._cache)

    def plan(self, seqs: Sequences) -> None:
        self._buffers.fill(seqs)
        kv_rows, mask = self._rows(self._block_of_all.length)
        self._kv_rows.copy_(kv_rows)
        self._mask.copy_(mask)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self._cache.write(layer, self._buffers.slots, k, v)
        return self._decode(layer, q, self._block_of_all).to(q.dtype)


class _Gathered:
    """Room for one layer's gathered keys and values, reused: fresh memory costs page faults."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._rows = 0
        self._raw: list[torch.Tensor] = []
        self._float32: list[torch.Tensor] = []

    def read(
        self, layer: int, kv_rows: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, float32 (m * kv_heads, length, head_dim), valid until the next read."""
        cache, rows = self._cache, kv_rows.shape[0]
        if rows > self._rows:
            self._rows = rows
            shape = (rows, cache.head_dim)
            self._raw = [cache.k[0].new_empty(shape) for _ in "kv"]
            self._float32 = self._raw
            if cache.dtype != torch.float32:
                self._float32 = [raw.float() for raw in self._raw]
        sources = (cache.k_slots[layer], cache.v_slots[layer])
        for source, raw, wide in zip(sources, self._raw, self._float32, strict=True):
            torch.index_select(source.view(-1, cache.head_dim), 0, kv_rows, out=raw[:rows])
            if wide is not raw:
                wide[:rows].copy_(raw[:rows])
        keys, values = (wide[:rows].view(-1, length, cache.head_dim) for wide in self._float32)
        return keys, values


def similar_lengths(lengths: list[int], limit: int) -> list[list[int]]:
    """Put what differs little in length together: lists of positions in `lengths`.

    Args:
        lengths: KV lengths, in tokens.
        limit: tokens a list may have, padding included, unless it holds one position only.

    Returns:
        Lists that together hold every position once; a single list is in ascending order.
    """
    groups: list[list[int]] = []
    longest = padding = 0
    for at in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padding += longest - lengths[at]
        full = groups and (len(groups[-1]) + 1) * longest > limit
        if not groups or padding > PADDING_TOKENS or full:
            groups.append([])
            longest, padding = lengths[at], 0
        groups[-1].append(at)
    return [sorted(group) for group in groups]


def slots_at(table: torch.Tensor, positions: torch.Tensor, page_size: int) -> torch.Tensor:
    """Slots of positions: both (m, tokens), int64; `table` is int (m, width)."""
    pages = table.long().gather(1, positions // page_size)
    return pages * page_size + positions % page_size


def padded_rows(
    table: torch.Tensor, kv_lens: torch.Tensor, length: int, cache: KVCache
) -> tuple[torch.Tensor, torch.Tensor]:
    """`kv_rows` and `mask` of a `DecodeBlock`, for these rows of a page table and KV lengths."""
    at = torch.arange(length, device=table.device)
    slots = slots_at(table, at.minimum(kv_lens[:, None].long() - 1), cache.page_size)
    heads = torch.arange(cache.kv_heads, device=table.device)[:, None]
    kv_rows = slots[:, None] * cache.kv_heads + heads  # (m, kv_heads, length)
    mask = torch.zeros((len(kv_lens), 1, 1, length), device=table.device)
    mask.masked_fill_((at >= kv_lens[:, None])[:, None, None], float("-inf"))
    return kv_rows.flatten(), mask
