"""Tokens of KV that an engine had room for, where its run does not say: what the weights leave of a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.config import ConfigError
from simulator.capacity import static_bytes
from simulator.operators.shards import bytes_per_gpu
from simulator.validation.assumption import Assumption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.model_shape import ModelShape
    from simulator.devices import Device
    from simulator.operators.shards import Parallel
    from traces.real_runs.base import EngineSettings

# of a GPU's memory, for weights, activations and KV: vLLM's default up to 0.19, and SGLang's smallest
MEMORY_SHARE = 0.9
CAPACITY = "kv.capacity_tokens"


def kv_capacity(
    engine: EngineSettings,
    model: ModelShape,
    device: Device,
    parallel: Parallel,
    given: int | None,
) -> tuple[int, Assumption | None]:
    """Tokens of KV of one rank, and what was assumed where the run does not say.

    Args:
        engine: what is known of how it was run.
        model: its shape.
        device: the GPU.
        parallel: how the model is split.
        given: the capacity that the config will be overridden with. The weights need not fit beside
            it: the profile's quantization may be another.

    Raises:
        ConfigError: where the weights leave no room.
    """
    if engine.kv_tokens is not None:
        return engine.kv_tokens, None
    share = engine.memory_share or MEMORY_SHARE
    tokens = given or kv_tokens(model, device, parallel, share)
    why = f"{share:g} of {device.product}'s memory, less the weights and a CUDA context"
    return tokens, Assumption(CAPACITY, tokens, why)


def given_tokens(given: Mapping[str, str]) -> int | None:
    """The KV capacity among settings, if it is a number; else whoever reads the config says so."""
    text = given.get(CAPACITY, "")
    return int(text) if text.isdecimal() and int(text) else None


def kv_tokens(
    model: ModelShape,
    device: Device,
    parallel: Parallel,
    share: float,
    weight_dtype: str = "auto",
) -> int:
    """Tokens of KV that fit beside one GPU's part of the weights, in `share` of its memory.

    Raises:
        ConfigError: where not one does.
    """
    weights, token = bytes_per_gpu(model, parallel, weight_dtype=weight_dtype)
    room = static_bytes(device, share) - weights
    if room < token:
        raise ConfigError(
            f"{model.name} does not fit on {device.product} split over {parallel.gpus} GPUs at {share:g} "
            "of its memory; give kv.capacity_tokens with --set"
        )
    return room // token
