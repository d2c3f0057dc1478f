"""What `auto` means in a policy: the engines' rules, by the device's memory and the KV pool.

Both worlds ask here, so that one config names one policy in either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policies.batching.decode_first import DecodeFirst
from policies.combinations import check_limits
from policies.config import ConfigError
from policies.engines.sglang import default_chunk, max_running
from policies.engines.vllm import default_limits
from policies.registry import BATCHINGS

if TYPE_CHECKING:
    from policies.config import PolicyConfig


def chunk_size(policy: PolicyConfig, memory_bytes: int) -> int | None:
    """Prompt tokens a step, by SGLang's rule where it is left open; None for no chunking."""
    if isinstance(_batching(policy), DecodeFirst):
        return None
    size = policy.chunked_prefill_size
    return max(default_chunk(memory_bytes), policy.page_size) if size == "auto" else size


def decode_first_limits(
    policy: PolicyConfig, memory_bytes: int, product: str, context: int
) -> tuple[int, int] | None:
    """Requests that may run and tokens a step, by vLLM's rules; None for another batching.

    Args:
        policy: as configured.
        memory_bytes: of the device.
        product: the device's name.
        context: tokens of one request, at most.
    """
    batching = _batching(policy)
    if not isinstance(batching, DecodeFirst):
        return None
    seqs, tokens = policy.max_running_requests, batching.max_num_batched_tokens
    return default_limits(
        memory_bytes,
        product,
        max_num_seqs=None if seqs == "auto" else seqs,
        max_num_batched_tokens=None if tokens == "auto" else tokens,
        max_model_len=context,
        chunked_prefill=batching.chunked,
    )


def resolve(
    policy: PolicyConfig, *, capacity: int, memory_bytes: int, product: str
) -> PolicyConfig:
    """The policy with a number for every `auto`.

    Args:
        policy: as configured.
        capacity: tokens the KV pool holds, whole pages.
        memory_bytes: of the device.
        product: the device's name.

    Raises:
        ConfigError: where the policy cannot be run with this pool.
    """
    context = policy.context_limit or capacity
    limits = decode_first_limits(policy, memory_bytes, product, context)
    resolved: dict[str, Any] = {"chunked_prefill_size": chunk_size(policy, memory_bytes)}
    if limits is not None:
        options = {**policy.batching_options, "max_num_batched_tokens": limits[1]}
        resolved |= {"max_running_requests": limits[0], "batching_options": options}
    else:
        wanted = None if policy.max_running_requests == "auto" else policy.max_running_requests
        resolved["max_running_requests"] = max_running(wanted, capacity, context)
    policy = policy.model_copy(update=resolved)
    try:
        check_limits(policy)
        _batching(policy).make_intake(policy, capacity)
    except ValueError as error:
        raise ConfigError(f"policy: {error}") from None
    return policy


def _batching(policy: PolicyConfig) -> Any:
    return BATCHINGS.create(policy.batching, policy.batching_options)
