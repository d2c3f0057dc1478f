"""What the paged attention kernels share: one block of keys and values, met by a block of queries.

Queries of all heads that share a KV head stand in one block, so keys and values are read once for all
of them. Softmax is online (Milakov and Gimelshein, 2018; FlashAttention), in base 2 and in float32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton compiles a kernel's annotations with it, so only compile-time constants have one.

from __future__ import annotations

import triton
import triton.language as tl

SMALLEST_DOT = 16  # rows and columns that tensor cores take at least


@triton.jit
def load_page_rows(
    cache_ptr,
    table_ptr,
    at,
    at_mask,
    kv_head,
    page_size,
    kv_heads,
    HEAD_DIM: tl.constexpr,  # noqa: N803 - compile-time constants are in capitals
    BLOCK_D: tl.constexpr,  # noqa: N803
):
    """Rows (tokens, BLOCK_D) of one KV head at positions `at` of a sequence; 0 where masked.

    A masked row is never read: what lies there may be another request's, or not a number.
    """
    page = tl.load(table_ptr + at // page_size, mask=at_mask, other=0).to(tl.int64)
    slot = page * page_size + at % page_size
    dim = tl.arange(0, BLOCK_D)
    return tl.load(
        cache_ptr + (slot * kv_heads + kv_head)[:, None] * HEAD_DIM + dim[None, :],
        mask=at_mask[:, None] & (dim[None, :] < HEAD_DIM),
        other=0.0,
    )


@triton.jit
def attend_block(
    q,
    k,
    v,
    visible,
    total,
    largest,
    weighted,
    scale_log2,
):
    """One step of the online softmax.

    Args:
        q: (M, D).
        k: (N, D).
        v: (N, D).
        visible: (M, N), or broadcast to it: which key each query may see.
        total: (M,), the sum of weights so far.
        largest: (M,), the largest score so far, in base 2; -inf before the first.
        weighted: (M, D), the weighted values so far.
        scale_log2: factor on scores that also takes them to base 2.

    Returns:
        `total`, `largest` and `weighted`, after this block.
    """
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    scores = tl.where(visible, scores, float("-inf"))
    above = tl.maximum(largest, tl.max(scores, 1))
    # A query that has seen no key yet: any finite number keeps inf - inf out.
    finite = tl.where(above == float("-inf"), 0.0, above)
    weight = tl.exp2(scores - finite[:, None])
    shrink = tl.exp2(largest - finite)
    total = total * shrink + tl.sum(weight, 1)
    weighted = weighted * shrink[:, None]
    weighted = tl.dot(weight.to(v.dtype), v, weighted, input_precision="ieee")
    return total, above, weighted


def block_sizes(head_dim: int, itemsize: int) -> tuple[int, int, int]:
    """Keys in a block, padded head_dim, and pipeline stages.

    Chosen for H100 and H200: several programs fit on a multiprocessor (of 228 KiB of shared memory
    one takes 21 to 98 KiB in bfloat16), which hides loads better than deeper pipelines of fewer.
    """
    block_d = max(SMALLEST_DOT, triton.next_power_of_2(head_dim))
    if itemsize == 2 and block_d <= 128:
        return 64, block_d, 3
    return 32, block_d, 2 if itemsize == 4 else 3
