"""GPU datasheets: what one device could do at best, and where each figure is written.

Rates are the dense ones (vendors print twice as much "with sparsity"), with FP32 accumulation where
a GeForce card is slower that way. Memory is what CUDA offers a process, in bytes: less than the
nominal gigabytes on the box, and less than nvidia-smi's total, which counts what the driver keeps.

A `Device` does not know what share of its peak a kernel reaches; that is the latency model's.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from policies.model_shape import canonical_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

_DATA: Final = Path(__file__).with_name("devices.json")
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU's peak rates and memory.

    Attributes:
        name: the short name it is loaded by.
        product: the product it describes.
        bf16_flops: dense bfloat16 and float16 tensor-core FLOP/s.
        fp8_flops: dense FP8 tensor-core FLOP/s; None where the hardware has none.
        memory_bandwidth: bytes/s between the GPU and its memory.
        memory_bytes: memory a CUDA process sees.
        sources: field name -> where its figure comes from.
    """

    name: str
    product: str
    bf16_flops: float
    fp8_flops: float | None
    memory_bandwidth: float
    memory_bytes: int
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what would make every duration zero, infinite or negative."""
        for key in _OVERRIDABLE:
            value = getattr(self, key)
            if value is None and key == "fp8_flops":
                continue
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"device {self.name}: {key} is {value!r}; expected a number > 0")
        object.__setattr__(self, "memory_bytes", int(self.memory_bytes))
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    @classmethod
    def load(cls, name: str, **overrides: float | None) -> Device:
        """The datasheet of a GPU by name or alias, regardless of case, spaces and underscores.

        Args:
            name: `h200`, `A100-80GB`, `RTX 4090` ...
            overrides: fields to replace (`memory_bandwidth=4.0e12`); their source becomes "given".

        Raises:
            ValueError: for an unknown name or field (the message lists the known), or a bad value.
        """
        datasheets = _datasheets()
        wanted = _key(name)
        for device, aliases in datasheets:
            if wanted in aliases:
                return device.overridden(**overrides) if overrides else device
        known = ", ".join(device.name for device, _ in datasheets)
        raise ValueError(f"unknown device {name!r}; known: {known}")

    def overridden(self, **overrides: float | None) -> Device:
        """The same device with some figures replaced and their source marked as given."""
        unknown = sorted(set(overrides) - set(_OVERRIDABLE))
        if unknown:
            raise ValueError(
                f"device {self.name}: cannot override {', '.join(unknown)}; "
                f"known: {', '.join(_OVERRIDABLE)}"
            )
        sources = {**self.sources, **dict.fromkeys(overrides, "given")}
        changes: dict[str, Any] = {**overrides, "sources": sources}
        return replace(self, **changes)

    def peak_flops(self, dtype: str) -> float:
        """Dense FLOP/s of matrix products in a dtype.

        Raises:
            ValueError: where the device has no tensor cores for it.
        """
        full = canonical_dtype(dtype)
        if full in ("bfloat16", "float16"):
            return self.bf16_flops
        if full.startswith("float8") and self.fp8_flops is not None:
            return self.fp8_flops
        has = "bf16, fp16, fp8" if self.fp8_flops is not None else "bf16, fp16"
        raise ValueError(f"device {self.name}: no tensor-core rate for {dtype}; it has: {has}")


_OVERRIDABLE: Final = tuple(
    f.name for f in fields(Device) if f.name not in ("name", "product", "sources")
)


def known_devices() -> tuple[str, ...]:
    """The short names of the datasheets that come with the package."""
    return tuple(device.name for device, _ in _datasheets())


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "-").replace("_", "-")


@cache
def _datasheets() -> tuple[tuple[Device, frozenset[str]], ...]:
    """All datasheets, each with every name it answers to."""
    entries = json.loads(_DATA.read_text(encoding="utf-8"))
    return tuple(
        (
            Device(
                name=name,
                product=entry["product"],
                bf16_flops=entry["bf16_flops"],
                fp8_flops=entry["fp8_flops"],
                memory_bandwidth=entry["memory_bandwidth"],
                memory_bytes=entry["memory_mib"] * _MIB,
                sources=entry["sources"],
            ),
            frozenset(_key(alias) for alias in (name, entry["product"], *entry["aliases"])),
        )
        for name, entry in entries.items()
    )
