"""The experts of a mixture-of-experts layer: each token through those it was routed to.

`experts` takes what a router decided and computes the weighted sum. The plain loop is the reference;
`grouped` sorts tokens by expert and multiplies each expert's weights once; `triton` does that in two
fused kernels. Routing itself, and its normalisation, is the model's business.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch.nn.functional import grouped_mm, silu


def experts(
    x: torch.Tensor,
    ids: torch.Tensor,
    weights: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    impl: str = "auto",
) -> torch.Tensor:
    """Sum over k of `weights[t, k] * down(silu(gate(x[t])) * up(x[t]))` of expert `ids[t, k]`.

    None of the implementations but the reference, and `grouped` on the CPU, looks at `ids` on the
    host, so on CUDA a call may be captured in a graph.

    Args:
        x: (T, H).
        ids: int64 (T, K), the experts of each token, none twice.
        weights: (T, K), of any float dtype.
        w13: (E, 2I, H), of x's dtype: the gate's rows, then up's.
        w2: (E, H, I), of x's dtype.
        impl: `auto`, `reference`, `grouped` or `triton`.

    Returns:
        (T, H), of x's dtype.

    Raises:
        ValueError: shapes that do not fit together, or an unknown implementation.
    """
    _check(x, ids, weights, w13, w2)
    if impl == "auto":
        impl = fastest(x.device)
    if impl == "reference":
        return _reference(x, ids, weights, w13, w2)
    if impl == "grouped":
        return _grouped(x, ids, weights, w13, w2)
    if impl == "triton":
        from runtime.kernels.experts_triton import fused_experts

        return fused_experts(x, ids, weights, w13, w2)
    msg = f"unknown implementation of experts {impl!r}; known: auto, reference, grouped, triton"
    raise ValueError(msg)


def fastest(device: torch.device) -> str:
    """What `auto` means on a device."""
    return "triton" if device.type == "cuda" and find_spec("triton") is not None else "grouped"


def _check(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor
) -> None:
    tokens, hidden = x.shape
    count, _, inner = w2.shape
    right = {
        "ids": (ids, (tokens, ids.shape[-1])),
        "weights": (weights, tuple(ids.shape)),
        "w13": (w13, (count, 2 * inner, hidden)),
        "w2": (w2, (count, hidden, inner)),
    }
    for name, (tensor, shape) in right.items():
        if tuple(tensor.shape) != shape:
            msg = f"{name} has shape {tuple(tensor.shape)}; x and w2 call for {shape}"
            raise ValueError(msg)


def _reference(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor
) -> torch.Tensor:
    """One expert after another."""
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in range(len(w2)):
        token, choice = torch.where(ids == expert)
        gate, up = (x[token] @ w13[expert].T).chunk(2, dim=-1)
        answer = (silu(gate) * up) @ w2[expert].T
        out.index_add_(0, token, answer.float() * weights[token, choice].float()[:, None])
    return out.to(x.dtype)


def _grouped(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor
) -> torch.Tensor:
    """Rows sorted by expert, each expert's weights read once."""
    order = ids.flatten().argsort(stable=True)
    ends = rows_per_expert(ids, len(w2)).cumsum(0)
    gate, up = _multiply(x[order // ids.shape[1]], w13, ends).chunk(2, dim=-1)
    answers = _multiply(silu(gate) * up, w2, ends)
    by_choice = torch.empty_like(answers)
    by_choice[order] = answers
    return weighted_sum(by_choice, weights)


def rows_per_expert(ids: torch.Tensor, count: int) -> torch.Tensor:
    """int64 (count,): rows routed to each expert; unlike bincount, without waiting for the device."""
    flat = ids.flatten()
    zeros = torch.zeros(count, dtype=torch.int64, device=ids.device)
    return zeros.scatter_add_(0, flat, torch.ones_like(flat))


def weighted_sum(answers: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Answers (T * K, H) in the order of `ids`, weighted and summed over K in float32."""
    tokens, choices = weights.shape
    by_token = answers.view(tokens, choices, -1).float()
    return torch.bmm(weights.float()[:, None], by_token)[:, 0].to(answers.dtype)


def _multiply(rows: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Rows sorted by matrix, rows [ends[e - 1], ends[e]) times `matrices[e].T`.

    On the CPU only matrices with rows are touched, which torch's grouped matmul does not promise.
    """
    if rows.device.type != "cpu":
        return grouped_mm(rows, matrices.transpose(1, 2), offs=ends.int())
    out = rows.new_empty((len(rows), matrices.shape[1]))
    start = 0
    for expert, stop in enumerate(ends.tolist()):
        if stop > start:
            torch.mm(rows[start:stop], matrices[expert].T, out=out[start:stop])
            start = stop
    return out
