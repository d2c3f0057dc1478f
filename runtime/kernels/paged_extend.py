"""Paged attention of many query tokens per sequence, causal, over what is cached and what is new.

Ragged: the host cuts every sequence's new tokens into tiles, and a program takes one tile and one KV
head. A tile's rows are its tokens times the query heads that share the KV head.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton compiles a kernel's annotations with it, so only compile-time constants have one.

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from runtime.kernels.paged_attention import attend_block, block_sizes, load_page_rows
from runtime.kernels.paged_decode import LOG2_E

if TYPE_CHECKING:
    from runtime.attention.base import Sequences
    from runtime.kv_cache import KVCache


@triton.jit
def _extend_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    tile_ptr,
    indptr_ptr,
    kv_len_ptr,
    table_ptr,
    scale_log2,
    table_stride,
    page_size,
    kv_heads,
    GROUP: tl.constexpr,  # noqa: N803 - compile-time constants are in capitals
    HEAD_DIM: tl.constexpr,  # noqa: N803
    TILE_TOKENS: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_D: tl.constexpr,  # noqa: N803
):
    """Tile `program_id(1)`, for the queries of KV head `program_id(0)`."""
    kv_head = tl.program_id(0)
    tile = tl.program_id(1)
    sequence = tl.load(tile_ptr + 2 * tile).to(tl.int64)
    first_new = tl.load(tile_ptr + 2 * tile + 1)
    begin = tl.load(indptr_ptr + sequence)
    new = tl.load(indptr_ptr + sequence + 1) - begin
    prefix = tl.load(kv_len_ptr + sequence) - new

    row = tl.arange(0, BLOCK_M)
    dim = tl.arange(0, BLOCK_D)
    mine = first_new + row // GROUP  # among the sequence's new tokens
    row_mask = (row < TILE_TOKENS * GROUP) & (mine < new)
    q_head = kv_head * GROUP + row % GROUP
    place = ((begin + mine).to(tl.int64) * (kv_heads * GROUP) + q_head)[:, None] * HEAD_DIM
    q_mask = row_mask[:, None] & (dim[None, :] < HEAD_DIM)
    q = tl.load(q_ptr + place + dim[None, :], mask=q_mask, other=0.0)

    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    largest = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    weighted = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    pages = table_ptr + sequence * table_stride
    # The tile's last token sees the most keys.
    stop = prefix + tl.minimum(first_new + TILE_TOKENS, new)
    for first in range(0, stop, BLOCK_N):
        at = first + tl.arange(0, BLOCK_N)
        seen = at < stop
        k = load_page_rows(k_ptr, pages, at, seen, kv_head, page_size, kv_heads, HEAD_DIM, BLOCK_D)
        v = load_page_rows(v_ptr, pages, at, seen, kv_head, page_size, kv_heads, HEAD_DIM, BLOCK_D)
        visible = seen[None, :] & (at[None, :] <= prefix + mine[:, None])
        total, largest, weighted = attend_block(
            q, k, v, visible, total, largest, weighted, scale_log2
        )
    answer = weighted / total[:, None]
    tl.store(out_ptr + place + dim[None, :], answer.to(out_ptr.dtype.element_ty), mask=q_mask)


def tile_tokens(group: int, head_dim: int, dtype: torch.dtype) -> int:
    """Tokens a tile: as many as fill its rows with the queries of one KV head."""
    return max(1, tile_rows(group, head_dim, dtype) // group)


def tile_rows(group: int, head_dim: int, dtype: torch.dtype) -> int:
    """Rows of a tile, a power of two: two warp groups' worth where registers allow."""
    one_token: int = triton.next_power_of_2(group)
    return max(128 if head_dim <= 128 and dtype.itemsize == 2 else 64, one_token)


def extend_tiles(seqs: Sequences, tokens: int) -> torch.Tensor:
    """Tiles of all sequences with more than one new token: int32 (tiles, 2), on the CPU.

    Each is a sequence and the tile's first token among that sequence's new ones. Those with the most
    keys come first, so that no long one is left running alone at the end.

    Args:
        seqs: the step.
        tokens: tokens a tile.
    """
    new = seqs.qo_indptr.diff()
    tiles = torch.where(new > 1, (new + tokens - 1) // tokens, 0).long()
    sequence = torch.repeat_interleave(torch.arange(seqs.count), tiles)
    first = (torch.arange(len(sequence)) - (tiles.cumsum(0) - tiles)[sequence]) * tokens
    keys = (seqs.kv_lens - new)[sequence] + first
    heaviest_first = keys.argsort(descending=True, stable=True)
    return torch.stack((sequence, first), dim=1)[heaviest_first].int()


def paged_extend(
    q: torch.Tensor,
    cache: KVCache,
    layer: int,
    tiles: torch.Tensor,
    seqs: Sequences,
    scale: float,
    out: torch.Tensor,
) -> None:
    """Attention of the tiles' tokens, written into `out`.

    Args:
        q: (T, q_heads, head_dim), contiguous.
        cache: keys and values, the new ones included.
        layer: which layer's.
        tiles: from `extend_tiles`, on the device.
        seqs: the step.
        scale: factor on the scores.
        out: like q; only the tiles' tokens are written.
    """
    group = q.shape[1] // cache.kv_heads
    block_n, block_d, stages = block_sizes(cache.head_dim, q.dtype.itemsize)
    sizes = (group, cache.head_dim, q.dtype)
    _extend_kernel[(cache.kv_heads, tiles.shape[0])](
        q,
        cache.k[layer],
        cache.v[layer],
        out,
        tiles,
        seqs.qo_indptr_dev,
        seqs.kv_lens_dev,
        seqs.page_table_dev,
        scale * LOG2_E,
        seqs.page_table_dev.stride(0),
        cache.page_size,
        cache.kv_heads,
        GROUP=group,
        HEAD_DIM=cache.head_dim,
        TILE_TOKENS=tile_tokens(*sizes),
        BLOCK_M=tile_rows(*sizes),
        BLOCK_N=block_n,
        BLOCK_D=block_d,
        num_warps=8,
        num_stages=stages,
    )
