"""How many tokens of KV there is room for: on CUDA by a trial step, on the CPU by a budget.

On CUDA a share of the device's memory is for everything: what is in use once the weights are loaded, the
largest step that can come, measured by running one, and KV takes the rest. On the CPU memory is shared
with everybody else, so KV gets a modest budget unless it is given.

It does not know requests or policies.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import torch

from policies.config import ConfigError
from runtime.attention.base import sequences
from runtime.kv_cache import KVCache

if TYPE_CHECKING:
    from runtime.attention.base import BackendFactory
    from runtime.config import RuntimeConfig
    from runtime.models.decoder import Decoder

_GIB: Final = 1 << 30
CUDA_FRACTION: Final = 0.9
"""Share of a GPU's memory for all, where none is given; what is left takes CUDA graphs and fragments."""
CPU_FRACTION: Final = 0.5
"""Share of the host's free memory that KV may take at most, where none is given."""
CPU_GIB: Final = 2.0
"""GiB of KV on the CPU, where nothing is given."""


def token_bytes(model: Decoder, dtype: torch.dtype) -> int:
    """Bytes of one token's keys and values over all layers."""
    c = model.config
    return KVCache.bytes_per_token(c.layers, c.kv_heads, c.head_dim, dtype)


def kv_capacity(
    config: RuntimeConfig,
    model: Decoder,
    backend: BackendFactory,
    *,
    step_tokens: int,
    sampled_rows: int,
) -> int:
    """Tokens the KV pool holds, whole pages, the padding page apart.

    Args:
        config: says how much, or what share.
        model: loaded, on its device.
        backend: attention as it will be.
        step_tokens: tokens of the largest step.
        sampled_rows: rows of the largest step that sample.

    Raises:
        ConfigError: where not even two pages fit.
    """
    page = config.policy.page_size
    if config.kv.capacity_tokens is not None:
        capacity = config.kv.capacity_tokens // page * page
        if capacity < 2 * page:
            raise ConfigError(
                f"kv.capacity_tokens: {config.kv.capacity_tokens} tokens are less than two pages of "
                f"{page} (policy.page_size)"
            )
        return capacity
    if model.device.type == "cuda":
        peak = step_peak_bytes(model, backend, page, step_tokens)
        peak += 2 * 4 * sampled_rows * model.config.vocab_size  # logits, and a copy to work on
        free, total = torch.cuda.mem_get_info(model.device)
        budget = int(total * (config.kv.mem_fraction or CUDA_FRACTION)) - (total - free) - peak
        where = f"{total / _GIB:.1f} GiB of GPU memory, {(total - free) / _GIB:.1f} in use and "
        where += f"{peak / _GIB:.1f} for a step of {step_tokens} tokens"
    else:
        budget = _cpu_budget(config)
        where = "the host's memory"
    page_bytes = page * token_bytes(model, model.dtype)
    pages = budget // page_bytes - 1
    if pages < 2:
        raise ConfigError(
            f"kv: there is no room for KV: {budget / _GIB:.2f} GiB are left for it of {where}, and "
            f"three pages of {page} tokens take {3 * page_bytes / _GIB:.4f}; raise kv.mem_fraction, "
            "give kv.capacity_tokens, or make steps smaller (policy.chunked_prefill_size)"
        )
    return pages * page


def _cpu_budget(config: RuntimeConfig) -> int:
    free = free_bytes(torch.device("cpu"))
    if config.runtime.kv_gib is not None:
        budget = int(config.runtime.kv_gib * _GIB)
        if budget > free:
            raise ConfigError(
                f"runtime.kv_gib: {config.runtime.kv_gib} GiB are more than the "
                f"{free / _GIB:.1f} that are free"
            )
        return budget
    if config.kv.mem_fraction is not None:
        return int(free * config.kv.mem_fraction)
    return min(int(free * CPU_FRACTION), int(CPU_GIB * _GIB))


def free_bytes(device: torch.device) -> int:
    """Memory that could be had on a device: on the host without swapping, as Linux reckons it.

    On a host that is not Linux it is what is unused. On CUDA what torch keeps for itself and does not use
    is free too.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - no file on disk
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def host_memory_bytes() -> int:
    """The host's memory in all."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@torch.inference_mode()
def step_peak_bytes(model: Decoder, backend: BackendFactory, page_size: int, tokens: int) -> int:
    """Bytes that a CUDA device needs beyond the weights for a prefill of so many tokens.

    The tokens are those of prompts no longer than the model takes, over a KV cache that is gone
    afterwards and not counted.
    """
    device, c = model.device, model.config
    lens = [c.max_position_embeddings] * (tokens // c.max_position_embeddings)
    if rest := tokens % c.max_position_embeddings:
        lens.append(rest)
    pages, used = [], 1
    for length in lens:
        count = -(-length // page_size)
        pages.append(list(range(used, used + count)))
        used += count
    cache = KVCache(c.layers, used, page_size, c.kv_heads, c.head_dim, model.dtype, device)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    attention = backend(cache, c.heads)
    attention.plan(sequences(lens, lens, pages, page_size, device))
    ids = torch.zeros(tokens, dtype=torch.int64, device=device)
    positions = torch.cat([torch.arange(length, device=device) for length in lens])
    model(ids, positions, attention.attend)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del cache, attention, ids, positions
    torch.cuda.empty_cache()
    return peak
