"""The tensors of a HuggingFace folder: one `model.safetensors`, or shards and their index.

A safetensors file begins with the length of a JSON header, 8 bytes little-endian, and that header
says name, type, shape and place of each tensor. It is read here, so that what is wrong with a file
can be said by tensor; the values are read by the safetensors package.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from policies.shapes.config_json import read_json
from runtime.weights.fill import Stored

if TYPE_CHECKING:
    from pathlib import Path

    import torch

WHOLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_FLOATS: Final = ("BF16", "F16", "F32", "F64")


def stored_tensors(folder: Path, device: torch.device | str = "cpu") -> list[Stored]:
    """Every tensor of a folder's checkpoint.

    Args:
        folder: with a config.json and safetensors.
        device: where `Stored.read` puts the values.

    Raises:
        ValueError: no safetensors, a shard that is missing or does not hold what the index says, a
            file that is truncated or no safetensors file, a tensor that is not of a floating type.
    """
    if (folder / INDEX).is_file():
        return _sharded(folder, device)
    if (folder / WHOLE).is_file():
        return _file(folder / WHOLE, device)
    others = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".gguf"})
    found = f"; found {', '.join(others[:3])}" if others else ""
    hint = " (load a .gguf file by its own path)" if any(".gguf" in o for o in others) else ""
    msg = f"{folder}: no weights: neither {WHOLE} nor {INDEX} is there{found}{hint}"
    raise ValueError(msg)


def _sharded(folder: Path, device: torch.device | str) -> list[Stored]:
    index = folder / INDEX
    match read_json(index).get("weight_map"):
        case dict() as weight_map if all(isinstance(f, str) for f in weight_map.values()):
            pass
        case other:
            msg = f"{index}: weight_map is {other!r}; expected an object of tensors to files"
            raise ValueError(msg)
    stored: list[Stored] = []
    for name in sorted(set(weight_map.values())):
        if not (folder / name).is_file():
            tensor = next(t for t, file in weight_map.items() if file == name)
            msg = f"{folder / name}: the file is missing; {index} says that it holds {tensor!r}"
            raise ValueError(msg)
        shard = _file(folder / name, device)
        held = {t.name for t in shard}
        for tensor, file in weight_map.items():
            if file == name and tensor not in held:
                msg = f"{folder / name}: tensor {tensor!r} is missing; {index} says it is here"
                raise ValueError(msg)
        stored += shard
    return stored


def _file(path: Path, device: torch.device | str) -> list[Stored]:
    from safetensors import safe_open

    header, data_start = _header(path)
    size = path.stat().st_size
    for name, entry in header.items():
        end = data_start + entry["data_offsets"][1]
        if end > size:
            msg = f"{path}: truncated: tensor {name!r} ends at byte {end:,} of a file of {size:,}"
            raise ValueError(msg)
        if entry["dtype"] not in _FLOATS:
            msg = (
                f"{path}: tensor {name!r} is of type {entry['dtype']}; quantised checkpoints are not "
                f"supported, expected one of {', '.join(_FLOATS)}"
            )
            raise ValueError(msg)
    # opened once: a mixture of experts has tens of thousands of tensors
    values = safe_open(path, framework="pt", device=str(device))
    return [
        Stored(name, str(path), tuple(entry["shape"]), partial(values.get_tensor, name))
        for name, entry in header.items()
    ]


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors a file says it holds, and at which byte their data begins."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        raw = file.read(length) if length <= path.stat().st_size else b""
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        for entry in header.values():
            _, _ = entry["data_offsets"]
            _, _ = entry["dtype"], entry["shape"]
    except (ValueError, TypeError, KeyError, AttributeError):
        msg = f"{path}: truncated, or not a safetensors file: its header cannot be read"
        raise ValueError(msg) from None
    return header, 8 + length
