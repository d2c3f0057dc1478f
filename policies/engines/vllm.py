"""vLLM 0.32.0: its defaults, and its words.

The defaults are those of `vllm serve` on CUDA for one dense model on one GPU; what depends on the
device is `auto`, and `default_limits` says what that means. Keys that only SGLang's batchings read are
left at the config's defaults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policies.engines.base import (
    Engine,
    Option,
    if_off,
    if_on,
    named,
    never,
    unless_auto,
    value_of,
)

if TYPE_CHECKING:
    from policies.config import Config

_GIB = 1 << 30

PRESET: dict[str, Any] = {
    "policy": {
        "order": "fcfs",
        "order_options": {},
        "priority": {"enabled": False, "low_values_first": True},
        "batching": "decode-first",
        "batching_options": {
            "max_num_batched_tokens": "auto",
            "max_num_active_seqs": None,
            "long_prefill_token_threshold": 0,
            "long_prefill_token_threshold_adaptive": False,
            "enable_chunked_prefill": True,
            "scheduler_reserve_full_isl": True,
            "watermark": 0.0,
            "reuse_unhashed_first": True,
        },
        "overlap": "overlapped",
        "page_size": 16,
        "cache": "blocks",
        "max_running_requests": "auto",
        "max_queued_requests": None,
        "max_loras_per_batch": 1,
        "accidents": {"abort_by_prefix": False},
    },
    "kv": {"mem_fraction": 0.92},
}


def default_limits(
    memory_bytes: int,
    product: str,
    *,
    max_num_seqs: int | None,
    max_num_batched_tokens: int | None,
    max_model_len: int,
    chunked_prefill: bool,
) -> tuple[int, int]:
    """The limits on a step that `vllm serve` takes on one GPU where they are not given.

    Args:
        memory_bytes: of the GPU.
        product: the GPU's name: an A100 counts with the small ones, whatever its memory.
        max_num_seqs: as given, or None.
        max_num_batched_tokens: as given, or None.
        max_model_len: the context limit, tokens.
        chunked_prefill: whether a prompt may be computed in parts; without that, one step must
            take the longest.

    Returns:
        `max_num_seqs` and `max_num_batched_tokens`.
    """
    large = memory_bytes >= 70 * _GIB and "a100" not in product.lower()
    seqs = max_num_seqs or (1024 if large else 256)
    if max_num_batched_tokens is not None:
        tokens = max_num_batched_tokens
    else:
        tokens = (16384 if memory_bytes >= 160 * _GIB else 8192) if large else 2048
        if not chunked_prefill:
            tokens = max(tokens, max_model_len)
        tokens = min(tokens, seqs * max_model_len)
    return (seqs if max_num_seqs else min(seqs, tokens)), tokens


def _block_size(value: Any, _: Config) -> str | None:
    return str(value) if value % 16 == 0 else None


def _blocks(value: Any, config: Config) -> str | None:
    """The null block, which holds nothing, counts too."""
    return None if value is None else str(value // config.policy.page_size + 1)


_OPTION = "policy.batching_options."
OPTIONS = {
    "policy.order": Option(
        "", never, "vLLM takes requests first come first served, or by priority"
    ),
    "policy.priority.enabled": Option("--scheduling-policy", named({True: "priority"})),
    "policy.priority.low_values_first": Option(
        "", never, "to vLLM the smaller number is the more important: negate the priorities"
    ),
    "policy.batching": Option("", never, "vLLM hands out one token budget, decodes first"),
    f"{_OPTION}max_num_batched_tokens": Option("--max-num-batched-tokens", unless_auto),
    f"{_OPTION}max_num_active_seqs": Option("--max-num-active-seqs", unless_auto),
    f"{_OPTION}long_prefill_token_threshold": Option("--long-prefill-token-threshold", value_of),
    f"{_OPTION}long_prefill_token_threshold_adaptive": Option(
        "--long-prefill-token-threshold-adaptive", if_on
    ),
    f"{_OPTION}enable_chunked_prefill": Option("--no-enable-chunked-prefill", if_off),
    f"{_OPTION}scheduler_reserve_full_isl": Option("--no-scheduler-reserve-full-isl", if_off),
    f"{_OPTION}watermark": Option("--watermark", value_of),
    f"{_OPTION}reuse_unhashed_first": Option(
        "", never, "vLLM 0.32 reuses blocks without contents first; 0.19 did not"
    ),
    "policy.overlap": Option("--no-async-scheduling", named({"serial": ""})),
    "policy.page_size": Option(
        "--block-size", _block_size, "vLLM's attention kernels take blocks of 16, 32, ... tokens"
    ),
    "policy.cache": Option(
        "--no-enable-prefix-caching",
        named({"none": ""}),
        "vLLM finds full blocks by their hashes, or caches nothing",
    ),
    "policy.eviction": Option("", never, "vLLM reuses free blocks least recently freed first"),
    "policy.chunked_prefill_size": Option(
        "", never, "vLLM bounds decodes and prompts together, with --max-num-batched-tokens"
    ),
    "policy.max_running_requests": Option("--max-num-seqs", unless_auto),
    "policy.max_queued_requests": Option(
        "", never, "vLLM bounds waiting and running requests together, with --max-num-queued-reqs"
    ),
    "policy.max_loras_per_batch": Option(
        "--max-loras", unless_auto, "vLLM always has a limit, of 1 by default"
    ),
    "policy.context_limit": Option("--max-model-len", unless_auto),
    "model.weight_dtype": Option(
        "--dtype",
        named({"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}),
        "vLLM needs a checkpoint in that precision, or --quantization fp8",
    ),
    "model.kv_dtype": Option(
        "--kv-cache-dtype", named({"fp8": "fp8"}), "vLLM keeps KV in the model's precision"
    ),
    "kv.capacity_tokens": Option("--num-gpu-blocks-override", _blocks),
    "kv.mem_fraction": Option(
        "--gpu-memory-utilization", unless_auto, "vLLM takes 0.92 of the GPU's memory"
    ),
}

ENGINE = Engine(
    name="vllm",
    product="vLLM 0.32.0",
    command=("vllm", "serve"),
    preset=PRESET,
    options=OPTIONS,
)
