"""Section `latency` of a config from a profile of any kind: of operators, calibrated, or still a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.config import ConfigError
from simulator.operators.llmservingsim import Link, read_llmservingsim, variant_folder
from simulator.profile import load_operators

if TYPE_CHECKING:
    from simulator.operators.shards import Parallel
    from simulator.validation.setup import Setup
    from traces.real_runs.base import RealRun


def latency_section(
    profile: str | Path, setup: Setup, real: RealRun, keep: Path, link: Link | None = None
) -> dict[str, Any]:
    """Section `latency` of a config for a profile of any kind.

    Args:
        profile: a profile of operators or a calibrated one, as a file or the name of one that ships;
            or a folder of LLMServingSim's profiler, see `variant_folder`.
        setup: what the run was served with.
        real: whose files may say what joins the GPUs.
        keep: where to write what is condensed from a folder, as JSON.
        link: between the GPUs, for a folder, which holds no collectives; by default what the run's
            files say.

    Raises:
        ConfigError: where the profile cannot be used; says why.
    """
    path = Path(profile)
    if not path.is_dir():
        return {"model": _kind(path), "profile": str(profile)}
    try:
        variant = variant_folder(path.resolve(), setup.model.name)
        condensed = read_llmservingsim(
            variant, setup.model, setup.parallel, link=link or link_of(real, setup.parallel)
        )
    except ValueError as error:
        raise ConfigError(f"--profile: {error}") from None
    keep.parent.mkdir(parents=True, exist_ok=True)
    condensed.save(keep)
    return {"model": "operators", "profile": str(keep)}


def link_of(real: RealRun, parallel: Parallel) -> Link | None:
    """What joins the GPUs, as the run's files say: as many hops as a ring of them has.

    An all-reduce over a ring of n goes 2 (n - 1) hops, a gather or scatter n - 1.
    """
    engine = real.engine
    if engine is None or engine.link_latency_ns is None or engine.link_gigabytes_per_s is None:
        return None
    hops = 2 * (parallel.tp - 1) if parallel.tp > 1 else parallel.ep - 1
    if hops < 1:
        return None
    return Link(
        latency_ns=engine.link_latency_ns * hops, bytes_per_s=engine.link_gigabytes_per_s * 1e9
    )


def split_of(profile: str | Path | None) -> Parallel | None:
    """How a profile takes the model to be split; None where it does not say, as a folder of several."""
    if profile is None or Path(profile).is_dir() or _kind(Path(profile)) != "operators":
        return None
    try:
        return load_operators(profile).parallel
    except ValueError:
        return None  # whoever builds the model from it says what is wrong


def _kind(path: Path) -> str:
    """The latency model that reads a profile; whether it is one is for that to say."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return "operators"  # the name of one that ships, or an error that the model tells
    calibrated = isinstance(data, dict) and data.get("kind") == "calibrated"
    return "calibrated" if calibrated else "operators"
