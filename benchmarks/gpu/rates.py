"""Decode and prefill of Qwen3-8B's shapes, against what memory and matmul allow.

A decode step must read every weight it multiplies with and the whole KV once: those bytes at the measured
copy bandwidth are its bound. A prefill must do its products: two operations a weight and token, four a pair
of tokens, head and element for attention; their rate is given as a share of the best matmul's.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.gpu import ceilings
from benchmarks.gpu.load import burst
from benchmarks.gpu.steps import decode_figures
from runtime.memory import token_bytes

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place
    from runtime.models.decoder import Decoder


def run(place: Place) -> None:
    """See the module."""
    limits = place.earlier("ceilings")
    if limits is None:
        ceilings.run(place)
        limits = place.figures
    bandwidth = limits["copy_bytes_per_s"]
    matmul = max(limits["matmul_flop_per_s"].values())
    model = place.loaded.model
    for batch in (place.size(64, 4), place.size(1, 1), place.size(256, 8)):
        place.note(f"decode, {batch}", _decode(place, model, batch, bandwidth))
    for length in (place.size(8192, 128), place.size(2048, 64)):
        place.note(f"prefill, {length}", _prefill(place, model, length, matmul))


def _decode(place: Place, model: Decoder, batch: int, bandwidth: float) -> dict[str, Any]:
    """Steps around a context of 1,024 tokens: prompts are shorter by half of what is then output."""
    context, output = place.size(1024, 48), place.size(128, 16)
    config = place.config(
        kv=(batch + 1) * (context + output),
        policy={"max_running_requests": batch, "chunked_prefill_size": place.size(8192, 256)},
        runtime={"cuda_graph_max_batch": batch},
    )
    work = burst(batch, context - output // 2, output, seed=batch)
    figures = decode_figures(place.steps(work, config), batch)
    nbytes = weight_bytes(model) + batch * context * token_bytes(model, model.dtype)
    bound_us = nbytes / bandwidth * 1e6
    return {
        **figures,
        "bound_us": bound_us,
        "share_of_bound": bound_us / figures["step_us"],
        "share_of_bound_on_device": bound_us / figures["device_us"],
        "tokens_per_s": batch / figures["step_us"] * 1e6,
    }


def _prefill(place: Place, model: Decoder, length: int, matmul: float) -> dict[str, Any]:
    """Prompts one after the other, each in a step of its own."""
    prompts = 6
    config = place.config(
        kv=prompts * (length + 64),
        policy={
            "chunked_prefill_size": length,
            "max_running_requests": prompts,
            "cache": "none",
        },
        runtime={"cuda_graphs": False},
    )
    steps = place.steps(burst(prompts, length, 1, seed=length), config)
    whole = [step for step in steps if step.prefill_tokens == length]
    if len(whole) < 2:
        raise ValueError(f"{len(whole)} steps of {length} prompt tokens among {len(steps)}")
    taken = median(step.end_ns - step.start_ns for step in whole[1:]) / 1e9
    operations = prefill_operations(model, length)
    return {
        "ms": taken * 1e3,
        "tokens_per_s": length / taken,
        "flop_per_s": operations / taken,
        "share_of_matmul": operations / taken / matmul,
    }


def weight_bytes(model: Decoder) -> int:
    """Bytes of the weights that every decode step reads: all but the table that tokens are looked up in."""
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    if model.head is model.embedding:
        return total
    return total - model.embedding.numel() * model.embedding.element_size()


def prefill_operations(model: Decoder, tokens: int) -> int:
    """Floating point operations of a prompt without a cached beginning; the head is for one token."""
    c = model.config
    head = model.head.numel()
    looked_up = 0 if model.head is model.embedding else model.embedding.numel()
    weights = sum(p.numel() for p in model.parameters()) - head - looked_up
    pairs = tokens * (tokens + 1) // 2
    return 2 * weights * tokens + 4 * pairs * c.heads * c.head_dim * c.layers + 2 * head
