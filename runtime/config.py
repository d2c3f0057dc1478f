"""The runtime's config: the shared one, with how the model is run, and what `auto` means here.

The same YAML drives simulation and serving: `model.weight_dtype` is what weights are computed in, `kv` how
much memory KV gets. `policy_for` puts numbers in the place of every `auto` of the policy, by the rules of
the engine whose way of batching it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from policies import config as shared
from policies.config import Config, ConfigError, ModelConfig, PolicyConfig, Section
from policies.resolution import chunk_size, decode_first_limits, resolve

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
    answers: Literal["trace", "sampled"] = "trace"
    """Of a replayed trace: what outputs are made of. trace takes the trace's tokens in place of the sampled
    ones, so that what follow-up prompts share with them is as in the trace."""
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
    return shared.as_config(RuntimeConfig, config, settings)


def step_tokens(policy: PolicyConfig, memory_bytes: int, product: str, max_context: int) -> int:
    """The most tokens that one step computes, as far as it is known before there is a KV pool.

    Args:
        policy: as configured.
        memory_bytes: of the device.
        product: the device's name.
        max_context: tokens of one request, at most.
    """
    context = policy.context_limit or max_context
    limits = decode_first_limits(policy, memory_bytes, product, min(context, max_context))
    if limits is not None:
        return limits[1]
    chunk = chunk_size(policy, memory_bytes)
    # without chunks a prompt is computed whole, whatever the limit on a step
    return max(policy.max_prefill_tokens, context) if chunk is None else chunk


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
    policy = policy.model_copy(update={"context_limit": context})
    return resolve(policy, capacity=capacity, memory_bytes=memory_bytes, product=product)
