"""The runtime's config: the shared one, with how the model is run, and what `auto` means here.

The same YAML drives simulation and serving: `model.weight_dtype` is what weights are computed in, `kv` how
much memory KV gets. `policy_for` puts numbers in the place of every `auto` of the policy, by the rules of
the engine whose way of batching it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from policies.batching.decode_first import DecodeFirst
from policies.combinations import check_limits
from policies.config import Config, ConfigError, ModelConfig, PolicyConfig, Section
from policies.engines.sglang import default_chunk, max_running
from policies.engines.vllm import default_limits
from policies.registry import BATCHINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class RuntimeOptions(Section):
    """Section `runtime`: how the model is run."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda or cuda:N; auto is CUDA where there is a GPU."""
    load_format: Literal["auto", "safetensors", "gguf", "dummy"] = "auto"
    """What the weights are read from; dummy draws them at random from the model's config alone."""
    attention: Literal["auto", "flashinfer", "triton", "torch", "reference"] = "auto"
    """Attention backend; auto takes the fastest that works."""
    cuda_graphs: bool = True
    """Capture decode steps in CUDA graphs."""
    cuda_graph_max_batch: Annotated[int, Field(ge=1)] = 256
    """Largest batch that is captured; larger ones run without a graph."""
    compile: bool = False
    """Compile what lies between attention calls with torch.compile."""
    clock: Literal["wall", "cpu"] = "wall"
    """Of a replayed trace: cpu is the CPU time that the process was given, for steps on a CPU that other
    programs use too."""
    kv_gib: PositiveFloat | None = None
    """On the CPU: GiB of memory for KV; null for 2, or for `kv.mem_fraction` of what is free if that is
    less or is given."""


class RuntimeModelConfig(ModelConfig):
    """Section `model`, as the runtime reads it."""

    kv_dtype: Literal["auto", "bf16", "fp16", "fp32", "fp8"] = "auto"  # type: ignore[assignment]
    """Precision of the KV cache; auto is that of the weights, the only one that can be run."""


def _default_section(value: Any) -> Any:
    return {} if value is None else value


class RuntimeConfig(Config):
    """The whole config as the runtime reads it."""

    model: RuntimeModelConfig = RuntimeModelConfig()
    runtime: Annotated[RuntimeOptions, BeforeValidator(_default_section)] = Field(
        default_factory=RuntimeOptions
    )


def as_config(
    config: RuntimeConfig | Mapping[str, Any] | str | Path | None, settings: Sequence[str] = ()
) -> RuntimeConfig:
    """A config from whatever form it is given in, with `section.key=value` settings over it.

    Raises:
        ConfigError: for an unknown key or an impossible value.
    """
    from pathlib import Path

    from policies.config import load_config, make_config

    if config is None or isinstance(config, str | Path):
        return load_config(RuntimeConfig, config, settings)
    if isinstance(config, RuntimeConfig):
        if not settings:
            return config
        config = config.model_dump(mode="json")
    return make_config(RuntimeConfig, config, settings=settings)


def step_tokens(policy: PolicyConfig, memory_bytes: int, product: str, max_context: int) -> int:
    """The most tokens that one step computes, as far as it is known before there is a KV pool.

    Args:
        policy: as configured.
        memory_bytes: of the device.
        product: the device's name.
        max_context: tokens of one request, at most.
    """
    batching = BATCHINGS.create(policy.batching, policy.batching_options)
    if isinstance(batching, DecodeFirst):
        context = min(policy.context_limit or max_context, max_context)
        return _decode_first_limits(policy, batching, memory_bytes, product, context)[1]
    chunk = _chunk(policy, memory_bytes)
    if chunk is None:  # a prompt is computed whole, whatever the limit on a step
        return max(policy.max_prefill_tokens, policy.context_limit or max_context)
    return chunk


def policy_for(
    policy: PolicyConfig, *, capacity: int, memory_bytes: int, product: str, max_context: int
) -> PolicyConfig:
    """The policy with a number for every `auto`.

    Args:
        policy: as configured.
        capacity: tokens the KV pool holds, whole pages.
        memory_bytes: of the device.
        product: the device's name.
        max_context: tokens of one request that the model can take.

    Raises:
        ConfigError: where the policy cannot be run with this model and this pool.
    """
    if policy.context_limit is not None and policy.context_limit > max_context:
        raise ConfigError(
            f"policy.context_limit: {policy.context_limit} is more than the model's "
            f"{max_context} positions; lower it, or leave it out"
        )
    context = policy.context_limit or min(max_context, capacity)
    batching = BATCHINGS.create(policy.batching, policy.batching_options)
    resolved: dict[str, Any] = {"context_limit": context}
    if isinstance(batching, DecodeFirst):
        requests, tokens = _decode_first_limits(policy, batching, memory_bytes, product, context)
        resolved |= {
            "chunked_prefill_size": None,
            "max_running_requests": requests,
            "batching_options": {**policy.batching_options, "max_num_batched_tokens": tokens},
        }
    else:
        wanted = policy.max_running_requests
        resolved |= {
            "chunked_prefill_size": _chunk(policy, memory_bytes),
            "max_running_requests": max_running(
                None if wanted == "auto" else wanted, capacity, context
            ),
        }
    policy = policy.model_copy(update=resolved)
    try:
        check_limits(policy)
        BATCHINGS.create(policy.batching, policy.batching_options).make_intake(policy, capacity)
    except ValueError as error:
        raise ConfigError(f"policy: {error}") from None
    return policy


def _chunk(policy: PolicyConfig, memory_bytes: int) -> int | None:
    size = policy.chunked_prefill_size
    return max(default_chunk(memory_bytes), policy.page_size) if size == "auto" else size


def _decode_first_limits(
    policy: PolicyConfig, batching: DecodeFirst, memory_bytes: int, product: str, context: int
) -> tuple[int, int]:
    """Requests that may run and tokens a step, by vLLM's rules."""
    seqs, tokens = policy.max_running_requests, batching.max_num_batched_tokens
    return default_limits(
        memory_bytes,
        product,
        max_num_seqs=None if seqs == "auto" else seqs,
        max_num_batched_tokens=None if tokens == "auto" else tokens,
        max_model_len=context,
        chunked_prefill=batching.chunked,
    )
