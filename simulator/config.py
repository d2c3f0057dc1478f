"""The simulator's config: the shared one, with what takes how long, and what `auto` means.

`Plan.of` turns a config into the parts that a simulation is built from. Nothing is left open after
it: every `auto` and every null that stands for a computed value has become a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from policies.batching.decode_first import DecodeFirst
from policies.combinations import check_limits
from policies.config import Config, ConfigError, PolicyConfig
from policies.engines.vllm import default_limits
from policies.model_shape import ModelShape
from policies.registry import BATCHINGS
from simulator.capacity import kv_capacity_tokens
from simulator.devices import Device
from simulator.host import HostModel, HostOptions
from simulator.latency.choose import (
    CalibratedConfig,
    OperatorsConfig,
    ReplayedConfig,
    RooflineConfig,
    build,
    latency_section,
)
from simulator.operators.shards import Parallel

if TYPE_CHECKING:
    from simulator.latency.base import LatencyModel

# SGLang 0.5.23's chunked_prefill_size by GPU memory: below so many GB, so many tokens.
CHUNK_BY_MEMORY_GB = ((35, 2048), (60, 4096), (160, 8192))
CHUNK_ABOVE = 16384


class HostConfig(HostOptions):
    """Section `host`: coefficients as given, else a profile's, else those of the preset."""

    profile: str | None = None
    """A calibrated profile whose coefficients to take."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("profile") is None:
            return values
        if values.get("preset", "production") != "production":
            raise ValueError("preset and profile are both given; leave one out")
        from simulator.profile import load_calibrated

        return {**load_calibrated(values["profile"]).host, **values}


def _default_section(value: Any) -> Any:
    return {} if value is None else value


class SimulatorConfig(Config):
    """The whole config as the simulator reads it."""

    latency: Annotated[
        RooflineConfig | OperatorsConfig | CalibratedConfig | ReplayedConfig,
        Field(discriminator="model"),
        BeforeValidator(latency_section),
    ] = Field(default_factory=RooflineConfig)
    host: Annotated[HostConfig, BeforeValidator(_default_section)] = Field(
        default_factory=HostConfig
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a simulation is built from.

    Attributes:
        policy: the policy, every `auto` resolved.
        model: the model's shape.
        device: the GPU.
        kv_capacity: tokens the KV pool holds.
        latency: how long the device takes.
        latency_source: what that stands on, for the manifest.
        host: how long the host takes.
        approximations: what of these is not measured for this, each in a sentence.
    """

    policy: PolicyConfig
    model: ModelShape
    device: Device
    kv_capacity: int
    latency: LatencyModel
    latency_source: dict[str, Any]
    host: HostModel
    approximations: tuple[str, ...]

    @classmethod
    def of(cls, config: SimulatorConfig) -> Plan:
        """Resolve a config.

        Raises:
            ConfigError: where a model or a device is not known, the model does not fit, or the
                policy cannot be run in what is left.
        """
        try:
            model = ModelShape.load(config.model.path)
        except (ValueError, OSError) as error:
            raise ConfigError(f"model.path: {error}") from None
        try:
            device = Device.load(config.device.name)
        except ValueError as error:
            raise ConfigError(f"device.name: {error}") from None
        batching = BATCHINGS.create(config.policy.batching, config.policy.batching_options)
        chunk = None if isinstance(batching, DecodeFirst) else _chunk(config.policy, device)
        capacity = config.kv.capacity_tokens
        if capacity is None:
            _check_one_gpu(config)
            try:
                capacity = kv_capacity_tokens(
                    model,
                    device,
                    kv_dtype=config.model.kv_dtype,
                    weight_dtype=config.model.weight_dtype,
                    mem_fraction=config.kv.mem_fraction,
                    chunked_prefill_size=chunk,
                    page_size=config.policy.page_size,
                )
            except ValueError as error:
                raise ConfigError(f"kv: {error}") from None
        page = config.policy.page_size
        if capacity < 2 * page:
            raise ConfigError(
                f"kv.capacity_tokens: {capacity} tokens are less than two pages of {page} "
                "(policy.page_size)"
            )
        capacity = capacity // page * page
        if isinstance(batching, DecodeFirst):
            resolved = _decode_first_limits(config.policy, batching, device, capacity)
        else:
            resolved = {
                "chunked_prefill_size": chunk,
                "max_running_requests": _max_running(config.policy, capacity),
            }
        policy = config.policy.model_copy(update=resolved)
        try:
            check_limits(policy)
            BATCHINGS.create(policy.batching, policy.batching_options).make_intake(policy, capacity)
        except ValueError as error:
            raise ConfigError(f"policy: {error}") from None
        chosen = build(config.latency, config.model, model, device)
        told = (*chosen.latency.approximations, *chosen.approximations, *_about_host(config))
        return cls(
            policy,
            model,
            device,
            capacity,
            chosen.latency,
            chosen.source,
            HostModel(config.host),
            told,
        )


def _about_host(config: SimulatorConfig) -> tuple[str, ...]:
    """A calibrated device beside an assumed host is easily taken for a calibrated whole."""
    assumed = config.host.profile is None and config.host == HostConfig()
    if not (assumed and isinstance(config.latency, CalibratedConfig)):
        return ()
    return ("host times are assumed; host.profile takes them from a calibrated profile",)


def _check_one_gpu(config: SimulatorConfig) -> None:
    """The KV capacity is computed for a whole model on one GPU."""
    if isinstance(config.latency, OperatorsConfig) and config.latency.parallel != Parallel():
        raise ConfigError(
            "kv.capacity_tokens: give it where latency.parallel splits the model; it is computed for "
            "one GPU only"
        )


def _chunk(policy: PolicyConfig, device: Device) -> int | None:
    if policy.chunked_prefill_size != "auto":
        return policy.chunked_prefill_size
    gigabytes = device.memory_bytes / 1e9
    chunk = next((size for below, size in CHUNK_BY_MEMORY_GB if gigabytes < below), CHUNK_ABOVE)
    return max(chunk, policy.page_size)


def _max_running(policy: PolicyConfig, capacity: int) -> int:
    """SGLang 0.5.23's limit: by how many full contexts the pool holds, at most half its tokens."""
    most = max(capacity // 2, 1)
    if policy.max_running_requests != "auto":
        return min(policy.max_running_requests, most)
    context = min(policy.context_limit or capacity, capacity)
    return min(max(2048, min(capacity * 512 // context, 4096)), most)


def _decode_first_limits(
    policy: PolicyConfig, batching: DecodeFirst, device: Device, capacity: int
) -> dict[str, Any]:
    """What decode-first leaves to the device, by vLLM 0.32.0's rules."""
    seqs, tokens = policy.max_running_requests, batching.max_num_batched_tokens
    requests, batched = default_limits(
        device.memory_bytes,
        device.product,
        max_num_seqs=None if seqs == "auto" else seqs,
        max_num_batched_tokens=None if tokens == "auto" else tokens,
        max_model_len=policy.context_limit or capacity,
        chunked_prefill=batching.chunked,
    )
    return {
        "chunked_prefill_size": None,
        "max_running_requests": requests,
        "batching_options": {**policy.batching_options, "max_num_batched_tokens": batched},
    }
