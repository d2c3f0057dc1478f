"""Experts in two fused Triton kernels: gate, up and activation; then down.

Rows, one per token and expert chosen, are sorted by expert and cut into blocks that each belong to
one expert, so that a block is an ordinary matrix product with that expert's weights. Where the blocks
lie is worked out on the device: the launch has room for as many as there could be, and those that are
not needed end at once. Nothing waits for the device, and no two programs add to the same place.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton compiles a kernel's annotations with it, so only compile-time constants have one.

from __future__ import annotations

import torch
import triton
import triton.language as tl

from runtime.kernels.experts import rows_per_expert, weighted_sum

FEW_ROWS = 16  # the smallest block that tensor cores take
MANY_ROWS = 64


@triton.jit
def _gate_up_kernel(
    x_ptr,
    w13_ptr,
    hidden_ptr,
    order_ptr,
    block_expert_ptr,
    block_start_ptr,
    block_stop_ptr,
    choices,
    HIDDEN: tl.constexpr,  # noqa: N803 - compile-time constants are in capitals
    INNER: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
):
    """hidden[row] = silu(gate) * up, for the sorted rows of one block and BLOCK_N columns."""
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    block = tl.program_id(1)
    stop = tl.load(block_stop_ptr + block)
    rows = tl.load(block_start_ptr + block) + tl.arange(0, BLOCK_M)
    row_mask = rows < stop
    if tl.load(block_start_ptr + block) < stop:
        token = tl.load(order_ptr + rows, mask=row_mask, other=0) // choices
        expert = tl.load(block_expert_ptr + block)
        gate_ptr = w13_ptr + expert * (2 * INNER * HIDDEN) + columns[None, :] * HIDDEN
        up_ptr = gate_ptr + INNER * HIDDEN
        gate = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        up = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for first in range(0, HIDDEN, BLOCK_K):
            inner = first + tl.arange(0, BLOCK_K)
            x_mask = row_mask[:, None] & (inner[None, :] < HIDDEN)
            x = tl.load(x_ptr + token[:, None] * HIDDEN + inner[None, :], mask=x_mask, other=0.0)
            w_mask = (inner[:, None] < HIDDEN) & (columns[None, :] < INNER)
            w_gate = tl.load(gate_ptr + inner[:, None], mask=w_mask, other=0.0)
            w_up = tl.load(up_ptr + inner[:, None], mask=w_mask, other=0.0)
            gate = tl.dot(x, w_gate, gate, input_precision="ieee")
            up = tl.dot(x, w_up, up, input_precision="ieee")
        answer = gate * tl.sigmoid(gate) * up
        out_ptr = hidden_ptr + rows.to(tl.int64)[:, None] * INNER + columns[None, :]
        out_mask = row_mask[:, None] & (columns[None, :] < INNER)
        tl.store(out_ptr, answer.to(hidden_ptr.dtype.element_ty), mask=out_mask)


@triton.jit
def _down_kernel(
    hidden_ptr,
    w2_ptr,
    out_ptr,
    order_ptr,
    block_expert_ptr,
    block_start_ptr,
    block_stop_ptr,
    HIDDEN: tl.constexpr,  # noqa: N803
    INNER: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
):
    """out[order[row]] = down(hidden[row]), for the sorted rows of one block and BLOCK_N columns."""
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    block = tl.program_id(1)
    stop = tl.load(block_stop_ptr + block)
    rows = tl.load(block_start_ptr + block) + tl.arange(0, BLOCK_M)
    row_mask = rows < stop
    if tl.load(block_start_ptr + block) < stop:
        expert = tl.load(block_expert_ptr + block)
        down_ptr = w2_ptr + expert * (HIDDEN * INNER) + columns[None, :] * INNER
        answer = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for first in range(0, INNER, BLOCK_K):
            inner = first + tl.arange(0, BLOCK_K)
            hidden = tl.load(
                hidden_ptr + rows.to(tl.int64)[:, None] * INNER + inner[None, :],
                mask=row_mask[:, None] & (inner[None, :] < INNER),
                other=0.0,
            )
            w_mask = (inner[:, None] < INNER) & (columns[None, :] < HIDDEN)
            w_down = tl.load(down_ptr + inner[:, None], mask=w_mask, other=0.0)
            answer = tl.dot(hidden, w_down, answer, input_precision="ieee")
        place = tl.load(order_ptr + rows, mask=row_mask, other=0)
        tl.store(
            out_ptr + place[:, None] * HIDDEN + columns[None, :],
            answer.to(out_ptr.dtype.element_ty),
            mask=row_mask[:, None] & (columns[None, :] < HIDDEN),
        )


def fused_experts(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor
) -> torch.Tensor:
    """See `runtime.kernels.experts.experts`."""
    rows, choices = ids.numel(), ids.shape[1]
    count, hidden_size, inner_size = w2.shape
    few = rows <= 2 * FEW_ROWS * count
    block_rows = FEW_ROWS if few else MANY_ROWS
    # int64, so that places in large tensors are not computed in 32 bits
    order = ids.flatten().argsort(stable=True)
    blocks = expert_blocks(rows_per_expert(ids, count), rows, block_rows)
    hidden = x.new_empty((rows, inner_size))
    answers = x.new_empty((rows, hidden_size))
    wide = x.dtype.itemsize > 2  # float32 takes twice the shared memory
    sizes = {
        "HIDDEN": hidden_size,
        "INNER": inner_size,
        "BLOCK_M": block_rows,
        "BLOCK_N": 64,
        "BLOCK_K": 32 if wide else 64,
        "num_warps": 4,
        "num_stages": 2 if wide else 4,
    }
    room = blocks[0].shape[0]
    _gate_up_kernel[(triton.cdiv(inner_size, 64), room)](
        x.contiguous(),
        w13.contiguous(),
        hidden,
        order,
        *blocks,
        choices,
        **sizes,
    )
    _down_kernel[(triton.cdiv(hidden_size, 64), room)](
        hidden, w2.contiguous(), answers, order, *blocks, **sizes
    )
    return weighted_sum(answers, weights)


def expert_blocks(
    counts: torch.Tensor, rows: int, block_rows: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Blocks of sorted rows that each belong to one expert.

    Args:
        counts: int64 (E,): rows of each expert.
        rows: their sum, known on the host.
        block_rows: rows a block may have.

    Returns:
        Expert, first row and end of each block, int64 (B,), with B the most that `rows` rows may
        need; a block that is not needed starts where it ends.
    """
    experts = counts.shape[0]
    most = rows // block_rows + min(experts, rows)
    blocks_end = ((counts + block_rows - 1) // block_rows).cumsum(0)
    block = torch.arange(most, device=counts.device)
    expert = torch.searchsorted(blocks_end, block, right=True)
    needed = expert < experts
    expert = expert.clamp_(max=experts - 1)
    rows_end = counts.cumsum(0)
    blocks_before = blocks_end - (counts + block_rows - 1) // block_rows
    start = (rows_end - counts)[expert] + (block - blocks_before[expert]) * block_rows
    stop = torch.minimum(start + block_rows, rows_end[expert])
    return expert, start, torch.where(needed, stop, start)
