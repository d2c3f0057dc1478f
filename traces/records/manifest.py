"""The manifest: the small JSON file that says what a run was and how it ended.

Written when the run starts and replaced atomically when it ends, so there is always a whole one.
It is the same byte for byte when the run is repeated: keys are sorted, floats are written so that
they read back equal, and no time of day may be in it. What the keys mean is for the world that
writes them, but for these, which the readers use:

- `status`: `running`, `complete`, `interrupted` or `failed: <why>`
- `kv_capacity_tokens`: KV slots of the device
- `itl`: inter-token latency statistics, from `ItlAccumulator.summary`
- `tables`: rows of each table; `records`: what was asked for
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from traces.records.errors import RecordError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = "schedtwin-run"
FORMAT_VERSION = 1

#: What readers take these keys to be, where they are there.
_KINDS: Mapping[str, tuple[type, str]] = {
    "config": (dict, "a mapping"),
    "counts": (dict, "a mapping"),
    "flags": (dict, "a mapping"),
    "hardware": (dict, "a mapping"),
    "itl": (dict, "a mapping"),
    "kv_capacity_tokens": (int, "a whole number"),
    "records": (list, "a list"),
    "resolved": (dict, "a mapping"),
    "status": (str, "text"),
    "tables": (dict, "a mapping"),
    "workload": (dict, "a mapping"),
}

#: Keys the writer keeps itself; a world that gave one would be overruled.
RESERVED = ("format", "format_version", "records", "status", "tables")


def plain(value: object, where: str = "manifest") -> Any:
    """The value as JSON can hold it: numpy scalars become numbers, tuples become lists.

    Raises:
        RecordError: for what JSON cannot hold (NaN, infinity, objects, keys that are no text),
            with the path to it.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RecordError(f"{where} is {value}: a manifest holds finite numbers (or null)")
        return float(value)
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise RecordError(f"{where} has the key {wrong[0]!r}: keys have to be text")
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    as_python = getattr(value, "tolist", None)  # numpy scalars and arrays
    if as_python is not None:
        return plain(as_python(), where)
    raise RecordError(
        f"{where} is a {type(value).__name__}: a manifest holds numbers, text, lists and mappings"
    )


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the folder's manifest in one step.

    Raises:
        OSError: where the file cannot be written; the previous manifest is then untouched.
    """
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    temporary = folder / f"{MANIFEST}.tmp"
    try:
        temporary.write_bytes((text + "\n").encode())
        temporary.replace(folder / MANIFEST)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        RecordError: where there is no such folder, it is no run, or its manifest is damaged or
            of a later version.
    """
    file = folder / MANIFEST
    if not folder.exists():
        raise RecordError(f"{folder}: no such run folder")
    if not file.is_file():
        raise RecordError(
            f"{folder} is no run: it has no {MANIFEST}; give the folder that a run was written to"
        )
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise RecordError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RecordError(f'{folder} is no run: its {MANIFEST} has no "format": "{FORMAT}"')
    if manifest.get("format_version") != FORMAT_VERSION:
        raise RecordError(
            f"{file} has format version {manifest.get('format_version')}; "
            f"this program reads {FORMAT_VERSION}"
        )
    for key, (kind, wanted) in _KINDS.items():
        found = manifest.get(key)
        if found is not None and not isinstance(found, kind):
            raise RecordError(f"{file} is damaged: {key} is {found!r}, expected {wanted}")
    return manifest


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run, of any version and in any state."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (ValueError, OSError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT
