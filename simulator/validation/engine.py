"""What is known of how an engine was run: from a run's files, and from another run of the same engine."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from policies.config import ConfigError
from simulator.validation.assumption import Assumption
from traces.real_runs.base import EngineSettings

if TYPE_CHECKING:
    from traces.real_runs.base import RealRun

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


def engine_of(run: RealRun, preset: str | None) -> EngineSettings:
    """What a run says of its engine; nothing but its name where only that was given.

    Args:
        run: the real one.
        preset: the engine, where it was given.

    Raises:
        ConfigError: where neither names one.
    """
    if run.engine is not None:
        # a client's result names the API that it spoke, which is not always the engine behind it
        return run.engine if preset is None else replace(run.engine, engine=preset)
    if preset is not None:
        return EngineSettings(engine=preset)
    raise ConfigError(
        f"{run.path}: {run.source} does not say how the engine was run; give --preset, --model and "
        "--device, and what else is known with --set, or all of it with --config"
    )


def completed(
    engine: EngineSettings, like: RealRun | None
) -> tuple[EngineSettings, list[Assumption]]:
    """The settings with another run's for those not known, memory apart: that depends on the GPU.

    Raises:
        ConfigError: where the other was run on another engine.
    """
    if like is None:
        return engine, []
    if like.engine is None or like.engine.engine != engine.engine:
        ran = "nobody knows what" if like.engine is None else like.engine.engine
        raise ConfigError(
            f"{like.path} was run on {ran}: its settings cannot stand in for those of {engine.engine}"
        )
    apart = (*OWN, "kv_tokens")
    found: dict[str, Any] = {}
    for field in fields(engine):
        value = getattr(like.engine, field.name)
        if field.name not in apart and value is not None and getattr(engine, field.name) is None:
            found[field.name] = value
    assumed = [Assumption(name, value, f"as in {like.name}") for name, value in found.items()]
    return replace(engine, **found), assumed
