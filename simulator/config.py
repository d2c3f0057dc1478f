"""The simulator's config: the shared one, with what takes how long, and what `auto` means.

`Plan.of` turns a config into the parts that a simulation is built from. Nothing is left open after
it: every `auto` and every null that stands for a computed value has become a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from policies.config import Config, ConfigError
from policies.resolution import chunk_size, resolve
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
from simulator.model_file import load_shape

if TYPE_CHECKING:
    from policies.config import PolicyConfig
    from policies.model_shape import ModelShape
    from simulator.latency.base import LatencyModel


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
            raise ValueError("host.preset and host.profile are both given; leave one out")
        from simulator.profile import load_calibrated

        try:
            fitted = load_calibrated(values["profile"]).host
        except ValueError as error:
            raise ValueError(f"host.profile: {error}") from None
        return {**fitted, **values}


def _default_section(value: Any) -> Any:
    return {} if value is None else value


class SimulatorConfig(Config):
    """The whole config as the simulator reads it."""

    latency: Annotated[
        RooflineConfig | OperatorsConfig | CalibratedConfig | ReplayedConfig,
        Field(discriminator="model"),
        BeforeValidator(latency_section),
    ] = Field(default_factory=RooflineConfig)
    """How long the device takes: `model` says by what (roofline, operators, calibrated, replayed), and the
    other keys are those of that model."""
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
            model = load_shape(config.model.path)
        except (ValueError, OSError) as error:
            raise ConfigError(f"model.path: {error}") from None
        try:
            device = Device.load(config.device.name)
        except ValueError as error:
            raise ConfigError(f"device.name: {error}") from None
        chosen = build(config.latency, config.model, model, device)
        chunk = chunk_size(config.policy, device.memory_bytes)
        capacity = config.kv.capacity_tokens
        if capacity is None:
            try:
                capacity = kv_capacity_tokens(
                    model,
                    device,
                    kv_dtype=config.model.kv_dtype,
                    weight_dtype=config.model.weight_dtype,
                    mem_fraction=config.kv.mem_fraction,
                    chunked_prefill_size=chunk,
                    page_size=config.policy.page_size,
                    parallel=chosen.parallel,
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
        policy = resolve(
            config.policy,
            capacity=capacity,
            memory_bytes=device.memory_bytes,
            product=device.product,
        )
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
