"""Paged attention of one query token per sequence: split KV, then merge (flash decoding).

A sequence's KV is cut into parts that programs attend to side by side, each leaving its answer and
the logarithm of its softmax's sum; a second kernel weighs the parts, if there are several. How many
there are is given to the launch, their length is worked out on the device, so a captured launch
serves any KV length.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton compiles a kernel's annotations with it, so only compile-time constants have one.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from runtime.kernels.paged_attention import (
    SMALLEST_DOT,
    attend_block,
    block_sizes,
    load_page_rows,
)

if TYPE_CHECKING:
    from runtime.kv_cache import KVCache

LOG2_E = 1.4426950408889634


@triton.jit
def _part_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    part_ptr,
    lse_ptr,
    sequence_ptr,
    token_ptr,
    kv_len_ptr,
    table_ptr,
    scale_log2,
    table_stride,
    page_size,
    kv_heads,
    parts,
    GROUP: tl.constexpr,  # noqa: N803 - compile-time constants are in capitals
    HEAD_DIM: tl.constexpr,  # noqa: N803
    BLOCK_G: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_D: tl.constexpr,  # noqa: N803
    ONE_PART: tl.constexpr,  # noqa: N803
):
    """Part `program_id(2)` of the KV of row `program_id(0)`, for the queries of one KV head."""
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    part = tl.program_id(2)
    sequence = tl.load(sequence_ptr + row).to(tl.int64)
    token = tl.load(token_ptr + row).to(tl.int64)
    kv_len = tl.load(kv_len_ptr + sequence)
    part_len = tl.cdiv(tl.cdiv(kv_len, parts), BLOCK_N) * BLOCK_N
    start = part * part_len
    stop = tl.minimum(start + part_len, kv_len)

    member = tl.arange(0, BLOCK_G)
    dim = tl.arange(0, BLOCK_D)
    q_mask = (member[:, None] < GROUP) & (dim[None, :] < HEAD_DIM)
    q_head = kv_head * GROUP + member
    q_heads = kv_heads * GROUP
    q = tl.load(
        q_ptr + (token * q_heads + q_head)[:, None] * HEAD_DIM + dim[None, :],
        mask=q_mask,
        other=0.0,
    )
    total = tl.zeros((BLOCK_G,), dtype=tl.float32)
    largest = tl.full((BLOCK_G,), float("-inf"), dtype=tl.float32)
    weighted = tl.zeros((BLOCK_G, BLOCK_D), dtype=tl.float32)
    pages = table_ptr + sequence * table_stride
    for first in range(start, stop, BLOCK_N):
        at = first + tl.arange(0, BLOCK_N)
        seen = at < stop
        k = load_page_rows(k_ptr, pages, at, seen, kv_head, page_size, kv_heads, HEAD_DIM, BLOCK_D)
        v = load_page_rows(v_ptr, pages, at, seen, kv_head, page_size, kv_heads, HEAD_DIM, BLOCK_D)
        total, largest, weighted = attend_block(
            q, k, v, seen[None, :], total, largest, weighted, scale_log2
        )
    if ONE_PART:
        answer = weighted / total[:, None]
        place = (token * q_heads + q_head)[:, None] * HEAD_DIM + dim[None, :]
        tl.store(out_ptr + place, answer.to(out_ptr.dtype.element_ty), mask=q_mask)
    elif start < stop:
        answer = weighted / total[:, None]
        place = (row.to(tl.int64) * q_heads + q_head) * parts + part
        tl.store(part_ptr + place[:, None] * HEAD_DIM + dim[None, :], answer, mask=q_mask)
        tl.store(lse_ptr + place, largest + tl.log2(total), mask=member < GROUP)


@triton.jit
def _merge_kernel(
    part_ptr,
    lse_ptr,
    out_ptr,
    sequence_ptr,
    token_ptr,
    kv_len_ptr,
    q_heads,
    parts,
    HEAD_DIM: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_D: tl.constexpr,  # noqa: N803
):
    """Weigh the parts of one row and head. Parts that a short sequence left empty are not read."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    kv_len = tl.load(kv_len_ptr + tl.load(sequence_ptr + row))
    part_len = tl.cdiv(tl.cdiv(kv_len, parts), BLOCK_N) * BLOCK_N
    dim = tl.arange(0, BLOCK_D)
    place = (row.to(tl.int64) * q_heads + head) * parts
    total = 0.0
    largest = float("-inf")
    merged = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for part in range(tl.cdiv(kv_len, part_len)):
        lse = tl.load(lse_ptr + place + part)
        answer = tl.load(part_ptr + (place + part) * HEAD_DIM + dim, mask=dim < HEAD_DIM, other=0.0)
        above = tl.maximum(largest, lse)
        shrink = tl.exp2(largest - above)
        weight = tl.exp2(lse - above)
        merged = merged * shrink + weight * answer
        total = total * shrink + weight
        largest = above
    token = tl.load(token_ptr + row).to(tl.int64)
    tl.store(
        out_ptr + (token * q_heads + head) * HEAD_DIM + dim,
        (merged / total).to(out_ptr.dtype.element_ty),
        mask=dim < HEAD_DIM,
    )


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """The decoding rows of a step, on the device.

    Attributes:
        sequences: int32 (m,): which sequence each row is.
        tokens: int32 (m,): where its query token is in the step.
        kv_lens: int32 (n,): KV length of every sequence of the step.
        page_table: int32 (n, width): pages of every sequence.
        part_answers: float32, room for (m, q_heads, parts, head_dim).
        part_lse: float32, room for (m, q_heads, parts).
        parts: into how many parts a sequence's KV is cut.
    """

    sequences: torch.Tensor
    tokens: torch.Tensor
    kv_lens: torch.Tensor
    page_table: torch.Tensor
    part_answers: torch.Tensor
    part_lse: torch.Tensor
    parts: int


def room_for_parts(
    rows: int, q_heads: int, parts: int, cache: KVCache
) -> tuple[torch.Tensor, torch.Tensor]:
    """`part_answers` and `part_lse` of `DecodeRows`."""
    lse = torch.empty((rows, q_heads, parts), dtype=torch.float32, device=cache.device)
    return lse.new_empty((rows, q_heads, parts, cache.head_dim)), lse


def paged_decode(
    q: torch.Tensor, cache: KVCache, layer: int, rows: DecodeRows, scale: float, out: torch.Tensor
) -> None:
    """Attention of the decoding rows, written into `out`.

    Args:
        q: (T, q_heads, head_dim), contiguous.
        cache: keys and values, the new ones included.
        layer: which layer's.
        rows: the rows that decode.
        scale: factor on the scores.
        out: like q; only the rows' tokens are written.
    """
    count, q_heads = rows.sequences.shape[0], q.shape[1]
    group = q_heads // cache.kv_heads
    block_n, block_d, stages = block_sizes(cache.head_dim, q.dtype.itemsize)
    _part_kernel[(count, cache.kv_heads, rows.parts)](
        q,
        cache.k[layer],
        cache.v[layer],
        out,
        rows.part_answers,
        rows.part_lse,
        rows.sequences,
        rows.tokens,
        rows.kv_lens,
        rows.page_table,
        scale * LOG2_E,
        rows.page_table.stride(0),
        cache.page_size,
        cache.kv_heads,
        rows.parts,
        GROUP=group,
        HEAD_DIM=cache.head_dim,
        BLOCK_G=max(SMALLEST_DOT, triton.next_power_of_2(group)),
        BLOCK_N=block_n,
        BLOCK_D=block_d,
        ONE_PART=rows.parts == 1,
        num_warps=4,
        num_stages=stages,
    )
    if rows.parts == 1:
        return
    _merge_kernel[(count, q_heads)](
        rows.part_answers,
        rows.part_lse,
        out,
        rows.sequences,
        rows.tokens,
        rows.kv_lens,
        q_heads,
        rows.parts,
        HEAD_DIM=cache.head_dim,
        BLOCK_N=block_n,
        BLOCK_D=block_d,
        num_warps=1,
    )
