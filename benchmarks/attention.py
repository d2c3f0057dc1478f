"""How fast each attention backend is here, one layer at a time.

    python -m benchmarks.attention [--threads N] [--dtype bfloat16]

For two models' heads, decode and extend steps: microseconds a layer, GB/s of keys and values read
(decode is bound by them) and TFLOP/s (extend is bound by those, of a causal product each for scores and
values). Pages are scattered. On CUDA every backend that works is timed with events, with enough layers
that no cache holds them all; elsewhere torch against the plain loop.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, NamedTuple

import torch

from runtime.attention.base import Sequences, sequences
from runtime.attention.choose import AttentionChoiceError, choose
from runtime.kv_cache import KVCache

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_SIZE = 16
HEADS = {"SmolLM2-135M": (9, 3, 64), "Qwen3-8B": (32, 8, 128)}
LAYERS = 6
GPU_ITERATIONS = 20


class Case(NamedTuple):
    """A step: `(prefix, new tokens)` of each sequence."""

    name: str
    lengths: list[tuple[int, int]]


CPU_CASES = [
    Case("decode, 8 of 512", [(511, 1)] * 8),
    Case("decode, 32 of 128", [(127, 1)] * 32),
    Case("decode, 32 of 512", [(511, 1)] * 32),
    Case("decode, 32, 31 of 100 and one of 4000", [(99, 1)] * 31 + [(3999, 1)]),
    Case("extend, one of 512", [(0, 512)]),
    Case("extend, 256 after 1024 cached", [(1024, 256)]),
    Case("mixed, 256 after 256 cached, decode 16 of 512", [(256, 256)] + [(511, 1)] * 16),
]
GPU_CASES = [
    Case("decode, 1 of 8192", [(8191, 1)]),
    Case("decode, 64 of 1024", [(1023, 1)] * 64),
    Case("decode, 256 of 1024", [(1023, 1)] * 256),
    Case("decode, 64, 63 of 512 and one of 32768", [(511, 1)] * 63 + [(32767, 1)]),
    Case("extend, one of 8192", [(0, 8192)]),
    Case("extend, 2048 after 6144 cached", [(6144, 2048)]),
    Case("mixed, one of 2048, decode 64 of 1024", [(0, 2048)] + [(1023, 1)] * 64),
]


def work(case: Case, heads: tuple[int, int, int], itemsize: int) -> tuple[int, int]:
    """Bytes of keys and values read, and floating point operations, of one layer."""
    q_heads, kv_heads, head_dim = heads
    tokens = sum(prefix + new for prefix, new in case.lengths)
    pairs = sum(new * prefix + new * (new + 1) // 2 for prefix, new in case.lengths)
    return 2 * tokens * kv_heads * head_dim * itemsize, 4 * pairs * q_heads * head_dim


def scattered(case: Case, device: torch.device) -> tuple[Sequences, int]:
    """The step, and how many pages a cache needs for it."""
    totals = [prefix + new for prefix, new in case.lengths]
    counts = [-(-total // PAGE_SIZE) for total in totals]
    shuffled = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(0)) + 1
    pages = [own.tolist() for own in shuffled.split(counts)]
    new = [new for _, new in case.lengths]
    return sequences(new, totals, pages, PAGE_SIZE, device), sum(counts) + 1


def measure(
    name: str, case: Case, heads: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> float:
    """Seconds a layer, `plan` left out."""
    q_heads, kv_heads, head_dim = heads
    seqs, pages = scattered(case, device)
    cache = KVCache(LAYERS, pages, PAGE_SIZE, kv_heads, head_dim, dtype, device)
    for tensor in (*cache.k, *cache.v):
        tensor.normal_()
    backend = choose(name, device, head_dim, dtype, PAGE_SIZE).build(cache, q_heads)
    tokens = seqs.slots.shape[0]
    q = torch.randn((tokens, q_heads, head_dim), device=device).to(dtype)
    k, v = torch.randn((2, tokens, kv_heads, head_dim), device=device).to(dtype)
    backend.plan(seqs)

    def layers() -> None:
        for layer in range(LAYERS):
            backend.attend(layer, q, k, v)

    return (time_on_gpu(layers) if device.type == "cuda" else time_on_cpu(layers)) / LAYERS


def time_on_cpu(run: Callable[[], None]) -> float:
    """The fastest of a second's runs, or of three."""
    run()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < 1.0:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def time_on_gpu(run: Callable[[], None]) -> float:
    """The mean of runs queued behind one another, between two events."""
    for _ in range(3):
        run()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(GPU_ITERATIONS):
        run()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop)) / 1e3 / GPU_ITERATIONS


def main() -> None:
    """Print a table per model and dtype."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice by default")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), help="one dtype only"
    )
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    cases = GPU_CASES if on_gpu else CPU_CASES
    names = ("flashinfer", "triton", "torch") if on_gpu else ("torch", "reference")
    where = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    dtypes = [given.dtype] if given.dtype else ["bfloat16", "float32"]
    for model, heads in HEADS.items():
        for dtype_name in dtypes:
            dtype: torch.dtype = getattr(torch, dtype_name)
            print(f"\n{model}, {dtype_name}, {where}")
            print(f"{'':48} {'backend':>10} {'us/layer':>10} {'GB/s':>8} {'TFLOP/s':>8}")
            for case in cases:
                nbytes, operations = work(case, heads, dtype.itemsize)
                for name in names:
                    try:
                        seconds = measure(name, case, heads, dtype, device)
                    except AttentionChoiceError as error:
                        print(f"{case.name:48} {name:>10} {error}")
                        continue
                    print(
                        f"{case.name:48} {name:>10} {seconds * 1e6:10.0f} "
                        f"{nbytes / seconds / 1e9:8.1f} {operations / seconds / 1e12:8.3f}"
                    )


if __name__ == "__main__":
    main()
