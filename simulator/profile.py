"""Profile files: JSON that says in `kind` what it is, and whether it is of this model and device.

`calibrated` profiles are fitted to recorded steps (`simulator.calibration.profile`), `operators`
profiles are condensed from tables of kernels (`simulator.operators.profile`). A profile that ships is
named, any other is a path.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simulator.devices import Device, datasheet_of, same_product

if TYPE_CHECKING:
    from simulator.calibration.profile import CalibratedProfile
    from simulator.operators.profile import OperatorProfile

SHIPPED: Final = Path(__file__).with_name("profiles")
WRITTEN_BY: Final = {
    "calibrated": "`twin calibrate RUN --out FILE`",
    "operators": "`condense` of simulator.operators.from_tables",
}


def shipped_profiles() -> tuple[str, ...]:
    """Names of the operator profiles that come with the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.json")))


def load_calibrated(path: str | Path) -> CalibratedProfile:
    """Read a calibrated profile.

    Raises:
        ValueError: names the file, and what is wrong with it or what else it is.
    """
    from simulator.calibration.profile import CalibratedProfile

    _check_kind(Path(path), "calibrated")
    return CalibratedProfile.load(path)


def load_operators(name: str | Path) -> OperatorProfile:
    """Read an operator profile, by its path or the name of one that ships.

    Raises:
        ValueError: names the file, and what is wrong with it; for an unknown name lists the known.
    """
    from simulator.operators.profile import OperatorProfile

    path = Path(name)
    if str(name) in shipped_profiles():
        path = SHIPPED / f"{name}.json"
    elif not path.exists():
        known = ", ".join(shipped_profiles()) or "none"
        raise ValueError(f"{name} is neither a file nor a profile that ships; those are: {known}")
    _check_kind(path, "operators")
    return OperatorProfile.load(path)


def mismatches(
    profile_model: str, profile_device: str, model: str, device: str
) -> tuple[list[str], list[str]]:
    """What a profile was made for and what it is to be used for, where they differ.

    Args:
        profile_model: as the profile names it: a name, a folder or a file of weights.
        profile_device: as the profile names it: a product, or the short name of a datasheet.
        model: the name of the config's model.
        device: what the config's device is called: the short name of a datasheet, or its path.

    Returns:
        differences that matter, and those that cannot be told: what was measured on a device that comes
        without a datasheet (the CPU), unless the config's own is of that product.
    """
    wrong: list[str] = []
    unknown: list[str] = []
    if not same_model(profile_model, model):
        wrong.append(f"it is of model {profile_model}, the config's is {model}")
    if same_product(profile_device, Device.load(device).product):
        return wrong, unknown
    if datasheet_of(profile_device) is None:
        unknown.append(
            f"it was measured on {profile_device}, which no datasheet describes: what goes by the "
            f"device's memory goes by that of {device}"
        )
    else:
        wrong.append(f"it was measured on {profile_device}, the config's device is {device}")
    return wrong, unknown


def _check_kind(path: Path, wanted: str) -> None:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no profile: it is not JSON: {error}") from error
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind is None and isinstance(data, dict) and "operators" in data:
        kind = "operators"
    if kind not in WRITTEN_BY:
        raise ValueError(
            f"{path} is no profile: it has no `kind` of {', '.join(WRITTEN_BY)}; {WRITTEN_BY[wanted]} "
            "writes one"
        )
    if kind != wanted:
        raise ValueError(
            f"{path} is of kind {kind}: use it with latency.model {kind}, or give one of kind {wanted} "
            f"({WRITTEN_BY[wanted]} writes one)"
        )


def same_model(one: str, other: str) -> bool:
    """Whether names mean the same shape: without owner, ending and what tells variants of it apart."""
    short, long = sorted((_model_key(one), _model_key(other)), key=len)
    rest = long.removeprefix(short)
    # what follows is a variant (-instruct) or a precision (.q4_1), not more of the version (.7b)
    return long.startswith(short) and re.match(r"$|[-_]|\.\D", rest) is not None


def _model_key(name: str) -> str:
    last = re.split(r"[/\\]|--", name.rstrip("/"))[-1]
    return last.lower().removesuffix(".json").removesuffix(".gguf")
