"""SGLang 0.5.23: its defaults, and its words.

The defaults are those of `ServerArgs` on CUDA for one dense model on one GPU; what depends on the
device's memory is `auto`. But for the adapters in a batch, they are the config's own defaults too.
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

PRESET: dict[str, Any] = {
    "policy": {
        "order": "fcfs",
        "order_options": {},
        "priority": {
            "enabled": False,
            "low_values_first": False,
            "preemption": True,
            "preemption_threshold": 10,
        },
        "batching": "prefill-first",
        "batching_options": {},
        "overlap": "overlapped",
        "page_size": 1,
        "cache": "radix",
        "eviction": "lru",
        "eviction_options": {},
        "retraction": "fewest-outputs",
        "chunked_prefill_size": "auto",
        "max_prefill_tokens": 16384,
        "prefill_max_requests": None,
        "prefill_decode_interval": 0,
        "prefill_decode_interval_min_batch": 0,
        "max_running_requests": "auto",
        "max_queued_requests": None,
        "max_loras_per_batch": 8,
        "new_token_ratio": {
            "conservativeness": 1.0,
            "init": 0.7,
            "min_factor": 0.14,
            "decay_steps": 600,
            "retract_decode_steps": 20,
        },
        "waiting_refresh_interval": 32,
        "waiting_refresh_requests": 128,
    },
    "kv": {"mem_fraction": None},
}

ORDERS = (
    "fcfs",
    "lpm",
    "dfs-weight",
    "lof",
    "random",
    "hrrn",
    "shortest-prefill-first",
    "routing-key",
)
EVICTIONS = ("lru", "lfu", "slru", "priority")
ACCIDENTS = (
    "charge_forgets_outputs",
    "hrrn_counts_decode",
    "preempt_by_stale_prefix",
    "unsorted_last_reserve",
)


# chunked_prefill_size by GPU memory: below so many GB, so many tokens.
CHUNK_BY_MEMORY_GB = ((35, 2048), (60, 4096), (160, 8192))
CHUNK_ABOVE = 16384


def default_chunk(memory_bytes: int) -> int:
    """The `chunked_prefill_size` that SGLang takes on a device with so much memory."""
    gigabytes = memory_bytes / 1e9
    return next((size for below, size in CHUNK_BY_MEMORY_GB if gigabytes < below), CHUNK_ABOVE)


def max_running(wanted: int | None, capacity: int, context_limit: int) -> int:
    """The `max_running_requests` that SGLang takes: by how many full contexts the pool holds.

    Args:
        wanted: as given, or None; at most half the pool's tokens in either case.
        capacity: tokens the KV pool holds.
        context_limit: tokens of one request.
    """
    most = max(capacity // 2, 1)
    if wanted is not None:
        return min(wanted, most)
    context = min(context_limit, capacity)
    return min(max(2048, min(capacity * 512 // context, 4096)), most)


def _chunk(value: Any, _: Config) -> str:
    return "-1" if value is None else str(value)


def _clashes(config: Config) -> list[str]:
    order = config.policy.order
    if not config.policy.priority.enabled or order not in ORDERS or order in ("fcfs", "lof"):
        return []
    key = "policy.priority.enabled"
    return [f'{key} with order "{order}": SGLang starts with priorities only under fcfs and lof']


OPTIONS = {
    "policy.order": Option(
        "--schedule-policy",
        named({order: order for order in ORDERS}),
        f"SGLang knows {', '.join(ORDERS)}, and would take fcfs",
    ),
    "policy.order_options.in_batch_check": Option(
        "IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD", value_of
    ),
    "policy.order_options.in_batch_share": Option(
        "IN_BATCH_PREFIX_CACHING_DEPRIORITIZE_THRESHOLD", value_of
    ),
    "policy.order_options.fallback_queue": Option(
        "", never, "SGLang's limit is fixed at 128 waiting requests"
    ),
    "policy.order_options.seed": Option("", never, "SGLang shuffles with no seed of its own"),
    "policy.priority.enabled": Option("--enable-priority-scheduling", if_on),
    "policy.priority.low_values_first": Option("--schedule-low-priority-values-first", if_on),
    "policy.priority.preemption": Option("--disable-priority-preemption", if_off),
    "policy.priority.preemption_threshold": Option(
        "--priority-scheduling-preemption-threshold", value_of
    ),
    "policy.batching": Option(
        "--enable-mixed-chunk",
        named({"mixed": ""}),
        "SGLang plans prefill first, or mixed with --enable-mixed-chunk",
    ),
    "policy.overlap": Option("--disable-overlap-schedule", named({"serial": ""})),
    "policy.page_size": Option("--page-size", value_of),
    "policy.cache": Option(
        "--disable-radix-cache", named({"none": ""}), "SGLang keeps a radix tree, or no cache"
    ),
    "policy.eviction": Option(
        "--radix-eviction-policy",
        named({eviction: eviction for eviction in EVICTIONS}),
        f"SGLang's command knows {', '.join(EVICTIONS)}, and would take lru",
    ),
    "policy.retraction": Option(
        "--retraction-policy",
        named({"priority": "priority"}),
        'SGLang knows "length" (fewest outputs first, its default) and "priority"',
    ),
    "policy.chunked_prefill_size": Option("--chunked-prefill-size", _chunk),
    "policy.max_prefill_tokens": Option("--max-prefill-tokens", value_of),
    "policy.prefill_max_requests": Option("--prefill-max-requests", value_of),
    "policy.prefill_decode_interval": Option("--prefill-decode-interval", value_of),
    "policy.prefill_decode_interval_min_batch": Option(
        "--prefill-decode-interval-min-bs", value_of
    ),
    "policy.max_running_requests": Option("--max-running-requests", value_of),
    "policy.max_queued_requests": Option("--max-queued-requests", value_of),
    "policy.max_loras_per_batch": Option(
        "--max-loras-per-batch", unless_auto, "SGLang always has a limit, of 8 by default"
    ),
    "policy.context_limit": Option("--context-length", value_of),
    "policy.new_token_ratio.conservativeness": Option("--schedule-conservativeness", value_of),
    "policy.new_token_ratio.init": Option("SGLANG_INIT_NEW_TOKEN_RATIO", value_of),
    "policy.new_token_ratio.min_factor": Option("SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR", value_of),
    "policy.new_token_ratio.decay_steps": Option("SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS", value_of),
    "policy.new_token_ratio.retract_decode_steps": Option("SGLANG_RETRACT_DECODE_STEPS", value_of),
    "policy.waiting_refresh_interval": Option("", never, "SGLang's interval is fixed at 32 rounds"),
    "policy.waiting_refresh_requests": Option("", never, "SGLang's number is fixed at 128"),
    **{
        f"policy.accidents.{accident}": Option("", never, "SGLang has this accident")
        for accident in ACCIDENTS
    },
    "model.weight_dtype": Option(
        "--dtype",
        named({"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}),
        "SGLang needs a checkpoint in that precision, or --quantization fp8",
    ),
    "model.kv_dtype": Option(
        "--kv-cache-dtype", named({"fp8": "fp8_e4m3"}), "SGLang keeps KV in the model's precision"
    ),
    "kv.capacity_tokens": Option("--max-total-tokens", unless_auto),
    "kv.mem_fraction": Option("--mem-fraction-static", unless_auto),
}

ENGINE = Engine(
    name="sglang",
    product="SGLang 0.5.23",
    command=("python", "-m", "sglang.launch_server", "--model-path"),
    preset=PRESET,
    options=OPTIONS,
    clashes=_clashes,
)
