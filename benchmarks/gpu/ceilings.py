"""What the device can do at most, as torch reaches it: bytes a second, and bf16 operations a second.

Every other figure is a share of these. Inputs are random: zeros take less power, so clocks rise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.gpu.clock import seconds

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place

HIDDEN, INNER = 4096, 12288  # of Qwen3-8B: its largest products


def run(place: Place) -> None:
    """See the module."""
    dtype = torch.float32 if place.tiny else torch.bfloat16
    copied, read = bandwidths(place.size(1 << 31, 1 << 16), dtype, place.device)
    place.note("copy_bytes_per_s", copied)
    place.note("read_bytes_per_s", read)
    square = place.size(8192, 64)
    hidden, inner = place.size(HIDDEN, 32), place.size(INNER, 96)
    rates: dict[str, float] = {}
    for m, n, k in ((square, square, square), (square, 2 * inner, hidden), (square, hidden, inner)):
        rates[f"{m} x {k} by {n}"] = matmul_rate(m, n, k, dtype, place.device)
    place.note("matmul_flop_per_s", rates)


def bandwidths(words: int, dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    """Bytes a second, of copying (those read and those written) and of reading alone."""
    source = torch.empty(words, dtype=dtype, device=device).normal_()
    target = torch.empty_like(source)
    nbytes = words * dtype.itemsize
    copied = seconds(lambda: target.copy_(source), device)
    read = seconds(lambda: torch.sum(source), device)
    return 2 * nbytes / copied, nbytes / read


def matmul_rate(m: int, n: int, k: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of (m, k) by (k, n), laid out as a model's weights are."""
    a = torch.empty((m, k), dtype=dtype, device=device).normal_()
    b = torch.empty((n, k), dtype=dtype, device=device).normal_()
    return 2 * m * n * k / seconds(lambda: torch.nn.functional.linear(a, b), device)
