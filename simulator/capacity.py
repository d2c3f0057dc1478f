"""How many tokens of KV cache fit on a device beside a model's weights.

The rule is SGLang's (0.5.x, `--mem-fraction-static`): a fraction of the memory that is free before
the weights are loaded holds weights and KV pool together; the rest is kept for activations and CUDA
graphs. Unless given, the fraction follows SGLang's own heuristic, which knows only the GPU's memory,
the prefill chunk and how many GPUs there are. Llama-3.1-8B on an H100 at 0.88 gives 54.3 GiB of KV, as
SGLang logs it. Where a model is split, what counts is one GPU's part of its weights and of its KV.

It does not know LoRA adapters, draft models or fragmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simulator.operators.shards import Parallel, bytes_per_gpu

if TYPE_CHECKING:
    from policies.model_shape import ModelShape
    from simulator.devices import Device

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30

# What a CUDA context, cuBLAS and NCCL take before weights are loaded: SGLang logs 78.4 to 78.8 GiB
# available at "Load weight begin" on an H100 that reports 79.19 GiB.
CUDA_CONTEXT_BYTES: Final = 600 * _MIB

# (GPU memory below this many MiB, default prefill chunk, largest decode batch captured in a CUDA
# graph), as for tensor parallelism 1; `_handle_gpu_memory_settings` in SGLang's server_args.py.
_SGLANG_TIERS: Final = (
    (20 * 1024, 2048, 8),
    (35 * 1024, 2048, 24),
    (60 * 1024, 4096, 32),
    (160 * 1024, 8192, 256),
)
_SGLANG_LARGEST_TIER: Final = (16384, 512)


def auto_mem_fraction(
    device: Device, *, chunked_prefill_size: int | None = None, gpus: int = 1
) -> float:
    """The share of a device's memory for weights and KV pool that SGLang would choose.

    It reserves 512 MiB for metadata, 1.5 MiB per token of a prefill chunk for activations, 2 MiB
    per request of the largest captured decode batch and 128 MiB for each GPU; at least 10 GiB on
    GPUs of more than 60 GiB. 0.906 on an H200, 0.834 on an H100, 0.844 on an RTX 4090.

    Args:
        device: the GPU.
        chunked_prefill_size: tokens of a prefill chunk; None for SGLang's default on this GPU.
        gpus: over which the model is split.

    Raises:
        ValueError: where the reserve leaves nothing.
    """
    memory_mib = device.memory_bytes / _MIB
    chunk, graph_batch = _SGLANG_LARGEST_TIER
    for below_mib, tier_chunk, tier_batch in _SGLANG_TIERS:
        if memory_mib < below_mib:
            chunk, graph_batch = tier_chunk, tier_batch
            break
    if chunked_prefill_size is not None:
        chunk = chunked_prefill_size
    reserved_mib = 512 + 1.5 * max(chunk, 2048) + 2 * graph_batch + 128 * gpus
    if memory_mib > 60 * 1024:
        reserved_mib = max(reserved_mib, 10 * 1024)
    fraction = round((memory_mib - reserved_mib) / memory_mib, 3)
    if fraction <= 0:
        raise ValueError(
            f"device {device.name} has {memory_mib:,.0f} MiB, of which activations and CUDA graphs "
            f"would take {reserved_mib:,.0f}; use a smaller chunked_prefill_size than {chunk} "
            "or give mem_fraction"
        )
    return fraction


def static_bytes(device: Device, mem_fraction: float) -> int:
    """Bytes of a device for weights and KV pool: a share of what is free before either is there."""
    return int((device.memory_bytes - CUDA_CONTEXT_BYTES) * mem_fraction)


def kv_capacity_tokens(
    model: ModelShape,
    device: Device,
    *,
    kv_dtype: str = "auto",
    weight_dtype: str = "auto",
    mem_fraction: float | None = None,
    chunked_prefill_size: int | None = None,
    page_size: int = 1,
    parallel: Parallel | None = None,
) -> int:
    """Tokens of KV cache that fit, a whole number of pages.

    Args:
        model: whose weights and KV.
        device: each GPU.
        kv_dtype: precision of keys and values; `auto` is the checkpoint's.
        weight_dtype: precision of the layers' matrices; `auto` is the checkpoint's.
        mem_fraction: share of the memory for weights and KV pool, in (0, 1]; None for
            `auto_mem_fraction`.
        chunked_prefill_size: tokens of a prefill chunk, for `auto_mem_fraction`.
        page_size: tokens of a page.
        parallel: how the model is split; None for one GPU.

    Raises:
        ValueError: when not even one page fits; says how many bytes are missing, and what helps.
    """
    parallel = parallel or Parallel()
    if page_size < 1:
        raise ValueError(f"page_size is {page_size}; expected >= 1")
    if mem_fraction is None:
        mem_fraction = auto_mem_fraction(
            device,
            chunked_prefill_size=chunked_prefill_size,
            gpus=parallel.gpus,
        )
    elif not 0 < mem_fraction <= 1:
        raise ValueError(f"mem_fraction is {mem_fraction}; expected more than 0 and at most 1")
    budget = static_bytes(device, mem_fraction)
    weights, token_bytes = bytes_per_gpu(
        model, parallel, weight_dtype=weight_dtype, kv_dtype=kv_dtype
    )
    page_bytes = page_size * token_bytes
    if budget - weights < page_bytes:
        missing = weights + page_bytes - budget
        split = f", split over {parallel.gpus} of them" if parallel.gpus > 1 else ""
        raise ValueError(
            f"{model.name} does not fit on {device.name}{split}: weights of {weights / _GIB:.1f} GiB and "
            f"one page of KV need {missing:,} bytes ({missing / _GIB:.1f} GiB) more than the "
            f"{budget / _GIB:.1f} GiB that mem_fraction {mem_fraction} leaves; a GPU with more "
            "memory, a smaller model, weight_dtype: fp8 or a larger mem_fraction would help"
        )
    return (budget - weights) // page_bytes * page_size
