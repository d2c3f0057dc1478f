"""How a real engine was run becomes a config of the simulator, and what had to be assumed for it.

A config may be given whole; a run of this project recorded its own; of any other run there are an engine's
settings, and those that its files do not say are taken from another run of the same engine, if one is
given, or derived. Each is told as an assumption. Nothing here looks at how long anything took.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.config import SimulatorConfig
from simulator.operators.shards import Parallel
from simulator.validation.assumption import Assumption, not_given
from simulator.validation.engine import completed, engine_of
from simulator.validation.memory import given_tokens, kv_capacity
from simulator.validation.names import Model, device_named, model_named
from simulator.validation.policy import keys_of, policy_of
from simulator.validation.split import split_over_gpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from policies.model_shape import ModelShape
    from traces.real_runs.base import EngineSettings, RealRun
    from traces.records.run import Run

DEFAULT_MODEL = "Qwen/Qwen3-8B"
# keys of a policy that a world puts numbers in for, and says in its manifest
RESOLVED = ("chunked_prefill_size", "max_running_requests", "context_limit", "batching_options")


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
        config: sections of a config that hold everything but a model or a device given beside them;
            only how the model is split is then taken from the run.
        like: another run of that engine, whose settings stand in for those not known, memory apart:
            that depends on the GPU.
        model: instead of what the run or the config says, a bundled name or a path.
        device: instead of what the run or the config says.
        split: that a profile was measured in, for a run whose files do not say how it was split.
        given: settings by their keys that the config will be overridden with; none of them is assumed.

    Raises:
        ConfigError: where the model or the device is not known, or the split is none that is.
    """
    given = given or {}
    model, device = given.get("model.path", model), given.get("device.name", device)
    if config is not None:
        return _as_configured(config, run.engine, model, device, split)
    if run.run is not None:
        return _as_recorded(run.run, model, device)
    return _as_the_engine_was_set(run, like, model, device, split, given)


def _as_configured(
    config: Mapping[str, Any],
    engine: EngineSettings | None,
    model: str | None,
    device: str | None,
    measured: Parallel | None,
) -> Setup:
    """A config as it was given, and how the run says its model was split."""
    sections, found = _of_model_and_device(config, model, device)
    parallel, ranks = Parallel(), 1
    if engine is not None:
        parallel, ranks, _ = split_over_gpus(engine, found.shape, measured)
    return Setup(sections, found.shape, parallel, ranks, _known((found.assumed,)))


def _as_recorded(run: Run, model: str | None, device: str | None) -> Setup:
    """The config of a run of this project, with what its world had put in for `auto`."""
    manifest = run.manifest
    given = manifest.get("config", {})
    config = {name: given[name] for name in SimulatorConfig.model_fields if name in given}
    resolved = manifest.get("resolved", {})
    put = {key: resolved[key] for key in RESOLVED if resolved.get(key) is not None}
    config["policy"] = {**config.get("policy", {}), **put}
    capacity = manifest.get("kv_capacity_tokens")
    if capacity is not None:
        config["kv"] = {**config.get("kv", {}), "capacity_tokens": capacity}
    config["model"] = {k: v for k, v in config.get("model", {}).items() if v != "auto"}
    sections, found = _of_model_and_device(config, model, device)
    ranks = int(manifest.get("ranks", 1))
    return Setup(sections, found.shape, Parallel(), ranks, _known((found.assumed,)))


def _of_model_and_device(
    config: Mapping[str, Any], model: str | None, device: str | None
) -> tuple[dict[str, Any], Model]:
    """A config's sections with the model and the GPU that were given for its own, if any were."""
    section = config.get("model", {})
    found = model_named(model or section.get("path", DEFAULT_MODEL))
    sections = {**config, "model": {**section, "path": found.path}}
    if device is not None:
        sections["device"] = {"name": device_named(device).name}
    return sections, found


def _as_the_engine_was_set(
    run: RealRun,
    like: RealRun | None,
    model: str | None,
    device: str | None,
    measured: Parallel | None,
    given: Mapping[str, str],
) -> Setup:
    """A config from what is known of an engine's settings, and what had to be assumed for the rest."""
    engine, stand_ins = completed(engine_of(run, given.get("preset")), like)
    found = model_named(model or engine.model)
    shape = found.shape
    gpu = device_named(device or engine.device)
    parallel, ranks, split = split_over_gpus(engine, shape, measured)
    policy, defaults = policy_of(engine)
    override = given_tokens(given)
    capacity, derived = kv_capacity(engine, shape, gpu, parallel, override)
    policy["context_limit"], limit = _context_limit(engine, shape, override or capacity)
    sections = {
        "preset": engine.engine,
        "model": {"path": found.path},
        "device": {"name": gpu.name},
        "kv": {"capacity_tokens": capacity},
        "policy": policy,
    }
    if run.concurrency is not None:
        sections["workload"] = {"loop": "closed", "concurrency": run.concurrency}
    assumed = _known((*stand_ins, found.assumed, split, *defaults, derived, limit))
    keys = {**keys_of(engine.engine), "context_limit": "policy.context_limit"}
    return Setup(sections, shape, parallel, ranks, not_given(assumed, given, keys))


def _context_limit(
    engine: EngineSettings, model: ModelShape, room: int
) -> tuple[int, Assumption | None]:
    """Tokens of one request: no more than the KV memory has room for."""
    if engine.context_limit is not None:
        return min(engine.context_limit, room), None
    limit = min(model.max_position_embeddings, room)
    why = "all that the KV memory holds" if limit == room else "the model's own"
    return limit, Assumption("policy.context_limit", limit, why)


def _known(assumed: Iterable[Assumption | None]) -> tuple[Assumption, ...]:
    """Those that there are."""
    return tuple(one for one in assumed if one is not None)
