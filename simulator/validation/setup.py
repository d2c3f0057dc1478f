"""How a real engine was run becomes a config of the simulator, and what had to be assumed for it.

Settings that a run's files do not say are taken from another run of the same engine, if one is given, or
derived; each is told as an assumption. Nothing here looks at how long anything took.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from policies.config import ConfigError
from policies.model_shape import ModelShape, bundled_models
from simulator.capacity import CUDA_CONTEXT_BYTES
from simulator.devices import Device, known_devices
from simulator.operators.shards import Parallel, bytes_per_gpu
from simulator.simulation import as_config
from traces.real_runs.base import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from traces.real_runs.base import RealRun

# of a GPU's memory, for weights, activations and KV: vLLM's default up to 0.19, and SGLang's smallest
MEMORY_SHARE = 0.9
DEFAULT_MODEL = "Qwen/Qwen3-8B"
# the last vLLM known to put freed blocks without contents to the tail of the queue; the preset's does not
FREES_TO_THE_TAIL = (0, 19)
# what one run knows of itself and no other can tell it
OWN = (
    "engine",
    "version",
    "model",
    "device",
    "tensor_parallel",
    "data_parallel",
    "expert_parallel",
)

CAPACITY = "kv.capacity_tokens"
# keys of a policy that a world puts numbers in for, and says in its manifest
RESOLVED = ("chunked_prefill_size", "max_running_requests", "context_limit", "batching_options")


ONE_GPU = "step times are of one GPU that holds the whole model, which the run had split as {}"


class Assumption(NamedTuple):
    """A setting that the run's files do not say."""

    key: str
    value: object
    why: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}: {self.why}"


@dataclass(frozen=True, slots=True)
class Setup:
    """What to simulate a real run with.

    Attributes:
        config: sections of a config, the latency model apart.
        model: its shape.
        parallel: how it was split.
        ranks: data-parallel ranks that step together; 1 for a single engine.
        assumptions: what was not known.
    """

    config: dict[str, Any]
    model: ModelShape
    parallel: Parallel
    ranks: int
    assumptions: tuple[Assumption, ...]


def setup_of(
    run: RealRun,
    *,
    config: Mapping[str, Any] | None = None,
    like: RealRun | None = None,
    model: str | None = None,
    device: str | None = None,
    split: Parallel | None = None,
    given: Mapping[str, str] | None = None,
) -> Setup:
    """What to simulate a run with.

    Args:
        run: the real one.
        config: sections of a config that hold everything; only how the model is split is then taken
            from the run.
        like: another run of that engine, whose settings stand in for those not known, memory apart:
            that depends on the GPU.
        model: instead of what the run says, a bundled name or a path.
        device: instead of what the run says.
        split: that a profile was measured in, for a run whose files do not say how it was split.
        given: settings by their keys that the config will be overridden with; none of them is assumed.

    Raises:
        ConfigError: where the model or the device is not known, or the split is none that is.
    """
    given = given or {}
    model, device = given.get("model.path", model), given.get("device.name", device)
    if config is not None:
        shape = _model(model or config.get("model", {}).get("path", DEFAULT_MODEL), [])
        parallel, ranks = (
            (Parallel(), 1) if run.engine is None else _split(run.engine, shape, split)
        )
        return Setup(dict(config), shape, parallel, ranks, ())
    if run.run is not None:
        return _as_recorded(run, model, device)
    assumed: list[Assumption] = []
    engine = _completed(_engine(run, given), like, assumed)
    shape = _model(model or engine.model, assumed)
    gpu = _device(device or engine.device)
    parallel, ranks = _split(engine, shape, split)
    if engine.tensor_parallel is None:
        why = "the run does not say" if split is None else "as the profile was measured"
        assumed.append(Assumption("GPUs", parallel.gpus, why))
    policy = _policy(engine, assumed)
    capacity = engine.kv_tokens
    if capacity is None:
        share = engine.memory_share or MEMORY_SHARE
        # where it is given the weights need not fit: the profile's quantization may be another
        capacity = _given_tokens(given) or kv_tokens(shape, gpu, parallel, share)
        why = f"{share:g} of {gpu.product}'s memory, less the weights and a CUDA context"
        assumed.append(Assumption(CAPACITY, capacity, why))
    room = _given_tokens(given) or capacity
    limit = min(engine.context_limit or shape.max_position_embeddings, room)
    if engine.context_limit is None:
        why = "all that the KV memory holds" if limit == room else "the model's own"
        assumed.append(Assumption("policy.context_limit", limit, why))
    policy["context_limit"] = limit
    sections = {
        "preset": engine.engine,
        "model": {"path": shape.name},
        "device": {"name": gpu.name},
        "kv": {"capacity_tokens": capacity},
        "policy": policy,
    }
    if run.concurrency is not None:
        sections["workload"] = {"loop": "closed", "concurrency": run.concurrency}
    keys = {**_keys(engine.engine), "context_limit": "policy.context_limit"}
    told = tuple(one for one in assumed if not _is_given(keys.get(one.key, one.key), given))
    return Setup(sections, shape, parallel, ranks, told)


def _engine(run: RealRun, given: Mapping[str, str]) -> EngineSettings:
    """What a run says of its engine; nothing but its name where only that was given."""
    preset = given.get("preset")
    if run.engine is not None:
        # a client's result names the API that it spoke, which is not always the engine behind it
        return run.engine if preset is None else replace(run.engine, engine=preset)
    if preset is not None:
        return EngineSettings(engine=preset)
    raise ConfigError(
        f"{run.path}: {run.source} does not say how the engine was run; give --preset, --model and "
        "--device, and what else is known with --set, or all of it with --config"
    )


def _given_tokens(given: Mapping[str, str]) -> int | None:
    """The KV capacity that was given, if it is a number; else whoever reads the config says so."""
    text = given.get(CAPACITY, "")
    return int(text) if text.isdecimal() and int(text) else None


def _is_given(key: str, given: Mapping[str, str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in given)


def _policy(engine: EngineSettings, assumed: list[Assumption]) -> dict[str, Any]:
    """Section `policy`, but for the context limit: what an engine was set to."""
    vllm = engine.engine == "vllm"
    policy: dict[str, Any] = {}
    if engine.max_running_requests is not None:
        policy["max_running_requests"] = engine.max_running_requests
    if engine.page_size is not None:
        policy["page_size"] = engine.page_size
    if engine.overlapped is not None:
        policy["overlap"] = "overlapped" if engine.overlapped else "serial"
    if engine.order is not None:
        policy["order"] = engine.order
    if engine.prefix_caching is False:
        policy["cache"] = "none"
    if engine.max_batched_tokens is not None:
        tokens = engine.max_batched_tokens
        key = "batching_options" if vllm else "chunked_prefill_size"
        policy[key] = {"max_num_batched_tokens": tokens} if vllm else tokens
    if vllm and _until(engine.version, FREES_TO_THE_TAIL):
        policy.setdefault("batching_options", {})["reuse_unhashed_first"] = False
    assumed += _defaults(engine)
    return policy


def _defaults(engine: EngineSettings) -> list[Assumption]:
    """What the preset decides where an engine's own settings are not known."""
    preset = as_config({"preset": engine.engine}).model_dump(mode="json")
    found = []
    for setting, key in _keys(engine.engine).items():
        if getattr(engine, setting) is None:
            value = preset
            for part in key.split("."):
                value = value[part]
            found.append(Assumption(key, value, "the engine's default"))
    return found


def _keys(engine: str) -> dict[str, str]:
    """The config's keys for an engine's settings."""
    batched = "batching_options.max_num_batched_tokens"
    return {
        "max_running_requests": "policy.max_running_requests",
        "max_batched_tokens": f"policy.{batched if engine == 'vllm' else 'chunked_prefill_size'}",
        "page_size": "policy.page_size",
        "prefix_caching": "policy.cache",
        "overlapped": "policy.overlap",
    }


def resolved(assumptions: Sequence[Assumption], found: Mapping[str, Any]) -> tuple[Assumption, ...]:
    """The same with the numbers that a simulation put in for `auto`.

    Args:
        assumptions: of a setup.
        found: section `resolved` of the simulated run's manifest.
    """
    policy = {f"policy.{key}": value for key, value in found.items()}
    options = found.get("batching_options", {})
    policy |= {f"policy.batching_options.{key}": value for key, value in options.items()}
    return tuple(
        one._replace(value=policy.get(one.key, one.value)) if one.value == "auto" else one
        for one in assumptions
    )


def _until(version: str | None, last: tuple[int, int]) -> bool:
    """Whether a version is known and no later than that, by its first two numbers."""
    found = re.match(r"(\d+)\.(\d+)", version or "")
    return found is not None and (int(found[1]), int(found[2])) <= last


def _as_recorded(run: RealRun, model: str | None, device: str | None) -> Setup:
    """The config of a run of this project, with what its world had put in for `auto`."""
    from simulator.config import SimulatorConfig

    assert run.run is not None
    manifest = run.run.manifest
    given = manifest.get("config", {})
    config = {name: given[name] for name in SimulatorConfig.model_fields if name in given}
    resolved = manifest.get("resolved", {})
    put = {key: resolved[key] for key in RESOLVED if resolved.get(key) is not None}
    config["policy"] = {**config.get("policy", {}), **put}
    capacity = manifest.get("kv_capacity_tokens")
    if capacity is not None:
        config["kv"] = {**config.get("kv", {}), "capacity_tokens": capacity}
    assumed: list[Assumption] = []
    section = {k: v for k, v in config.get("model", {}).items() if v != "auto"}
    shape = _model(model or section.get("path", DEFAULT_MODEL), assumed)
    config["model"] = {
        **section,
        "path": shape.name if assumed else model or section.get("path", shape.name),
    }
    if device is not None:
        config["device"] = {"name": device}
    return Setup(config, shape, Parallel(), int(manifest.get("ranks", 1)), tuple(assumed))


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
    room = int((device.memory_bytes - CUDA_CONTEXT_BYTES) * share) - weights
    if room < token:
        raise ConfigError(
            f"{model.name} does not fit on {device.product} split over {parallel.gpus} GPUs at {share:g} "
            "of its memory; give kv.capacity_tokens with --set"
        )
    return room // token


def _completed(
    engine: EngineSettings, like: RealRun | None, assumed: list[Assumption]
) -> EngineSettings:
    if like is None:
        return engine
    if like.engine is None or like.engine.engine != engine.engine:
        ran = "nobody knows what" if like.engine is None else like.engine.engine
        raise ConfigError(
            f"{like.path} was run on {ran}: its settings cannot stand in for those of {engine.engine}"
        )
    apart = (*OWN, "kv_tokens")
    found: dict[str, Any] = {}
    for field in fields(engine):
        value = getattr(like.engine, field.name)
        if field.name in apart or value is None or getattr(engine, field.name) is not None:
            continue
        found[field.name] = value
        assumed.append(Assumption(field.name, value, f"as in {like.name}"))
    return replace(engine, **found)


def _model(name: str | None, assumed: list[Assumption]) -> ModelShape:
    if name is None:
        raise ConfigError("the run does not say its model; give it with --model")
    try:
        return ModelShape.load(name)
    except ValueError as error:
        wanted = name.rsplit("/", 1)[-1].lower()
        alike = [m for m in bundled_models() if wanted.startswith(m.rsplit("/", 1)[-1].lower())]
        if not alike:
            raise ConfigError(f"model: {error}; give another with --model") from None
        found = max(alike, key=len)
        assumed.append(Assumption("model.path", found, f"the shape of {name}, by its name"))
        return ModelShape.load(found)


def _device(name: str | None) -> Device:
    if name is None:
        raise ConfigError("the run does not say its GPU; give it with --device")
    plain = name.lower()
    for word in ("nvidia", "geforce", "blackwell", "server edition", " ", "-", "_"):
        plain = plain.replace(word, "")
    for known in known_devices():
        if plain.startswith(known.replace("-", "")):
            return Device.load(known)
    try:
        return Device.load(name)
    except ValueError as error:
        raise ConfigError(f"device: {error}; give another with --device") from None


def _split(
    engine: EngineSettings, model: ModelShape, profile: Parallel | None
) -> tuple[Parallel, int]:
    """How the model is split over GPUs, and how many ranks step together."""
    tp, dp = engine.tensor_parallel or 1, engine.data_parallel or 1
    if engine.tensor_parallel is None and profile is not None:
        return profile, profile.attention_ranks
    if dp > 1 and not (model.moe is not None and engine.expert_parallel):
        raise ConfigError(
            f"{dp} data-parallel ranks of {model.name} without expert parallelism: ranks that share no "
            "experts are engines of their own; validate one of them with the requests it was sent"
        )
    if model.moe is None or not engine.expert_parallel:
        return Parallel(tp=tp), 1
    return Parallel(tp=tp, ep=tp * dp), dp


def check_split(setup: Setup, measured: Parallel | None) -> list[str]:
    """See that step times are of the run's split.

    Args:
        setup: of the run.
        measured: how the profile takes the model to be split; None for a model of one GPU.

    Returns:
        what to tell where nothing else is at hand.

    Raises:
        ConfigError: where a profile is of another split.
    """
    if measured is None:
        return [] if setup.parallel.gpus == 1 else [ONE_GPU.format(setup.parallel)]
    if measured != setup.parallel:
        raise ConfigError(
            f"--profile: it was measured for {measured}, the run was split as {setup.parallel}; give one "
            "of that split"
        )
    return []
