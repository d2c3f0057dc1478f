"""Section `latency` of the config: which model says how long the device takes, and its options.

`build` makes the model, and tells what is approximate about it. Nothing is chosen silently: a profile of
another model or device is an error unless it is accepted, and then it is told.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from policies.config import ConfigError
from policies.shapes.dtypes import canonical_dtype
from simulator.latency.roofline import RooflineLatency, RooflineOptions
from simulator.operators.shards import Parallel

if TYPE_CHECKING:
    from policies.config import ModelConfig
    from policies.model_shape import ModelShape
    from simulator.devices import Device
    from simulator.latency.base import LatencyModel
    from simulator.operators.profile import OperatorProfile


class RooflineConfig(RooflineOptions):
    """From datasheets; needs no data."""

    model: Literal["roofline"] = "roofline"


class Section(BaseModel):
    """Unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OperatorsConfig(Section):
    """From measured kernels: a profile, or tables to condense one from."""

    model: Literal["operators"] = "operators"
    profile: str | None = None
    """A profile that ships, or a file; null for the one that ships for model and device; or a folder of
    LLMServingSim's profiler, from which one is condensed."""
    tables: str | None = None
    """Instead of a profile: `installed` for PyPI's aiconfigurator-core, or a folder in its layout."""
    framework: str = "sglang"
    """Whose kernels, of the tables."""
    version: str | None = None
    """Of the framework; null for the newest."""
    routing: str = "power_law_1.2"
    """How tokens spread over experts."""
    all_to_all: Literal["nccl", "deepep"] = "nccl"
    """What carries tokens to experts of other ranks."""
    parallel: Parallel = Parallel()
    """How the model is split, where tables or a folder are condensed."""
    accept_mismatch: bool = False
    """Use a profile of another model or device; the run says so."""


class CalibratedConfig(Section):
    """Fitted to recorded steps; `twin calibrate` writes the profile."""

    model: Literal["calibrated"] = "calibrated"
    profile: str
    """The file."""
    accept_mismatch: bool = False
    """Use a profile of another model or device; the run says so."""


class ReplayedConfig(Section):
    """The durations that a run recorded, in its order."""

    model: Literal["replayed"] = "replayed"
    run: str
    """Its folder."""
    otherwise: str | None = None
    """A calibrated profile that answers for steps which that run did not have; null makes them errors."""
    accept_mismatch: bool = False
    """Use a run, or a profile, of another model or device; the run says so."""


LatencyConfig = RooflineConfig | OperatorsConfig | CalibratedConfig | ReplayedConfig
KNOWN: dict[str, type[LatencyConfig]] = {
    "roofline": RooflineConfig,
    "operators": OperatorsConfig,
    "calibrated": CalibratedConfig,
    "replayed": ReplayedConfig,
}


def latency_section(value: Any) -> Any:
    """The section as given, with its model named; the roofline where it is not.

    Raises:
        ValueError: for an unknown model or key; the message lists the known.
    """
    if value is None:
        value = {}
    if not isinstance(value, dict):
        return value
    model = value.get("model", "roofline")
    if not isinstance(model, str) or model not in KNOWN:
        raise ValueError(f"latency.model: unknown {model!r}; known are {', '.join(KNOWN)}")
    known = KNOWN[model].model_fields
    unknown = [key for key in value if key not in known]
    if unknown:
        raise ValueError(f"unknown key 'latency.{unknown[0]}'; {model} knows {', '.join(known)}")
    return {"model": model, **value}


class Chosen(NamedTuple):
    """A latency model, and what to say of it.

    Attributes:
        latency: the model.
        source: what it stands on, for the manifest.
        approximations: beyond those of the model itself.
        parallel: how it takes the model to be split.
    """

    latency: LatencyModel
    source: dict[str, Any]
    approximations: tuple[str, ...] = ()
    parallel: Parallel = Parallel()


def build(section: LatencyConfig, config: ModelConfig, model: ModelShape, device: Device) -> Chosen:
    """The latency model that a section asks for.

    Raises:
        ConfigError: names the key, and what is wrong with the profile, the tables or the run.
    """
    match section:
        case RooflineConfig():
            latency = RooflineLatency(
                model,
                device,
                weight_dtype=config.weight_dtype,
                kv_dtype=config.kv_dtype,
                options=section,
            )
            return Chosen(latency, {"model": "roofline"})
        case OperatorsConfig():
            return _operators(section, config, model, device)
        case CalibratedConfig():
            return _calibrated(
                "latency.profile", section.profile, model, device, accept=section.accept_mismatch
            )
        case ReplayedConfig():
            return _replayed(section, model, device)


def _operators(
    section: OperatorsConfig, config: ModelConfig, model: ModelShape, device: Device
) -> Chosen:
    from simulator.latency.operators import OperatorLatency
    from simulator.profile import load_operators

    if section.tables is not None:
        if section.profile is not None:
            raise ConfigError(
                "latency: profile and tables are both given; a profile is condensed from tables, so "
                "leave one out"
            )
        profile, name = _condensed(section, config, model, device), "condensed"
    else:
        name = section.profile or f"{device.gpu}.{model.name.rsplit('/', 1)[-1].lower()}"
        folder = Path(name)
        try:
            profile = (
                _from_folder(section, folder, model) if folder.is_dir() else load_operators(name)
            )
        except ValueError as error:
            raise ConfigError(f"latency.profile: {error}") from None
        _check_dtypes(profile, config, model)
    found = _matched(
        "latency.profile",
        name,
        (profile.model, profile.gpu),
        (model.name, device.name),
        accept=section.accept_mismatch,
    )
    source = {
        "model": "operators",
        "profile": name,
        "source": profile.source,
        "errors": profile.errors,
        "parallel": profile.parallel.model_dump(),
    }
    return Chosen(OperatorLatency(profile), source, found, profile.parallel)


def _from_folder(section: OperatorsConfig, folder: Path, model: ModelShape) -> OperatorProfile:
    from simulator.operators.llmservingsim import read_llmservingsim, variant_folder

    if section.parallel.gpus > 1:
        raise ValueError(
            f"{folder} holds no collectives, which {section.parallel} needs; `twin validate --link US,GB/S`"
            " condenses one with them, and keeps it as profile.json"
        )
    return read_llmservingsim(variant_folder(folder.resolve(), model.name), model, section.parallel)


def _condensed(
    section: OperatorsConfig, config: ModelConfig, model: ModelShape, device: Device
) -> OperatorProfile:
    from simulator.operators.from_tables import condense
    from simulator.operators.tables import Tables

    root = None if section.tables == "installed" else section.tables
    try:
        tables = Tables.open(device.gpu, section.framework, section.version, root=root)
        dtype = model.resolve_weight_dtype(config.weight_dtype)
        return condense(
            tables,
            model,
            section.parallel,
            weight_dtype="fp8_block" if dtype.startswith("float8") else "bfloat16",
            kv_dtype="fp8" if config.kv_dtype == "fp8" else "bfloat16",
            routing=section.routing,
            all_to_all=section.all_to_all,
        )
    except (ValueError, OSError) as error:
        raise ConfigError(f"latency.tables: {error}") from None


def _check_dtypes(profile: OperatorProfile, config: ModelConfig, model: ModelShape) -> None:
    for key, wanted, measured in (
        ("weight_dtype", model.resolve_weight_dtype(config.weight_dtype), profile.weight_dtype),
        ("kv_dtype", canonical_dtype(config.kv_dtype), profile.kv_dtype),
    ):
        # kernels of the two 16-bit formats take the same time
        if wanted.startswith("float8") != measured.startswith(("fp8", "float8")):
            raise ConfigError(
                f"latency.profile: its {key} is {measured}, the config's model.{key} is {wanted}; set "
                f"model.{key}, or condense one with latency.tables"
            )


def _calibrated(key: str, path: str, model: ModelShape, device: Device, *, accept: bool) -> Chosen:
    from simulator.latency.calibrated import CalibratedLatency
    from simulator.profile import load_calibrated, shipped_profiles

    if path in shipped_profiles():
        raise ConfigError(
            f"{key}: {path}, which ships, is of operators: use latency.model operators"
        )
    try:
        profile = load_calibrated(path)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    measured, wanted = (profile.model, profile.device), (model.name, device.name)
    found = _matched(key, path, measured, wanted, accept=accept)
    source = {"model": "calibrated", "profile": path, "steps": profile.steps}
    return Chosen(CalibratedLatency(profile), source, found)


def _replayed(section: ReplayedConfig, model: ModelShape, device: Device) -> Chosen:
    from simulator.calibration.steps import CalibrationError
    from simulator.latency.replayed import ReplayedLatency
    from traces.records.errors import RecordError
    from traces.records.run import load_run

    found: tuple[str, ...] = ()
    otherwise = None
    if section.otherwise is not None:
        chosen = _calibrated(
            "latency.otherwise", section.otherwise, model, device, accept=section.accept_mismatch
        )
        otherwise, found = chosen.latency, chosen.approximations
    try:
        run = load_run(section.run)
        latency = ReplayedLatency(run, otherwise)
    except (RecordError, CalibrationError) as error:
        raise ConfigError(f"latency.run: {error}") from None
    hardware = run.manifest.get("hardware", {})
    its_model, its_device = hardware.get("model"), hardware.get("device")
    if isinstance(its_model, str) and isinstance(its_device, str):
        found += _matched(
            "latency.run",
            section.run,
            (its_model, its_device),
            (model.name, device.name),
            accept=section.accept_mismatch,
        )
    return Chosen(latency, {"model": "replayed", "run": section.run}, found)


def _matched(
    key: str, name: str, measured: tuple[str, str], wanted: tuple[str, str], *, accept: bool
) -> tuple[str, ...]:
    """What to tell of a profile or a run that is used.

    Args:
        key: of the config, that names it.
        name: of the profile or the run.
        measured: model and device that it is of.
        wanted: those of the config.
        accept: use it even where it is of others.

    Raises:
        ConfigError: where it is of others.
    """
    from simulator.profile import mismatches

    what = "run" if key == "latency.run" else "profile"
    wrong, unknown = mismatches(*measured, *wanted)
    if wrong and not accept:
        raise ConfigError(
            f"{key}: {name} is no {what} for this: {'; '.join(wrong)}. Set model.path and device.name, "
            f"take another {what}, or accept it with latency.accept_mismatch"
        )
    return tuple(f"{what} {name}: {text}" for text in (*wrong, *unknown))
