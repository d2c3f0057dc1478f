"""GPU datasheets: what one device could do at best, and where each figure is written.

Rates are the dense ones (vendors print twice as much "with sparsity"), with FP32 accumulation where
a GeForce card is slower that way. Memory is what CUDA offers a process, in bytes: less than the
nominal gigabytes on the box, and less than nvidia-smi's total, which counts what the driver keeps.

Six come with the package, in `devices.json`; of any other GPU a file says the same fields, as
`twin devices h200` prints them. A `Device` does not know what share of its peak a kernel reaches; that
is the latency model's.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from policies.model_shape import canonical_dtype
from policies.yaml_text import YamlError, read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

_DATA: Final = Path(__file__).with_name("devices.json")
_SUFFIXES: Final = (".yaml", ".yml", ".json")
_LEAST: Final = 1e9  # no GPU has less of anything; a smaller figure is in another unit

MEANS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "product": "what the driver calls the GPU (`nvidia-smi -L`); profiles are matched by it",
        "bf16_flops": "dense bfloat16 and float16 tensor-core FLOP/s; vendors print twice as much with "
        "sparsity",
        "fp8_flops": "dense FP8 tensor-core FLOP/s; null where the hardware has none",
        "memory_bandwidth": "bytes/s between the GPU and its memory",
        "memory_bytes": "bytes that a CUDA process sees, less than the nominal gigabytes "
        "(the total of torch.cuda.mem_get_info)",
        "sources": "where each figure comes from; may be left out",
    }
)
"""What a datasheet says, key by key."""

_EXPECTED: Final = f"expected a datasheet, YAML or JSON with the keys {', '.join(MEANS)}"


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU's peak rates and memory.

    Attributes:
        name: what it is loaded by: a short name, or the path of its file.
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
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and value > 0):
                raise ValueError(f"device {self.name}: {key} is {value!r}; expected a number > 0")
        object.__setattr__(self, "memory_bytes", int(self.memory_bytes))
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    @classmethod
    def load(cls, name: str, **overrides: float | None) -> Device:
        """The datasheet of a GPU.

        Args:
            name: `h200`, `A100-80GB`, `RTX 4090` ..., regardless of case, spaces and underscores; or
                the path of a JSON or YAML file with the fields of `MEANS`.
            overrides: fields to replace (`memory_bandwidth=4.0e12`); their source becomes "given".

        Raises:
            ValueError: for an unknown name or field (the message lists the known), or a bad value;
                of a file, names it and the field.
        """
        device = _named(name)
        return device.overridden(**overrides) if overrides else device

    @property
    def gpu(self) -> str:
        """What profiles and tables of measured kernels are looked up by, whatever it was loaded by."""
        return datasheet_of(self.product) or self.name

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


def datasheet_of(product: str) -> str | None:
    """The short name of the bundled datasheet that is meant by a product, as drivers and tools write it."""
    plain = _plain(product)
    return next((name for name in known_devices() if plain.startswith(name)), None)


def same_product(one: str, other: str) -> bool:
    """Whether two names are of one product: of one datasheet or, without any, written alike."""
    return (datasheet_of(one) or _plain(one)) == (datasheet_of(other) or _plain(other))


def _plain(product: str) -> str:
    """What tells one product from another."""
    return re.sub(r"nvidia|geforce|blackwell|server edition|[^a-z0-9]", "", product.lower())


def _named(name: str) -> Device:
    datasheets = _datasheets()
    wanted = _key(name)
    for device, aliases in datasheets:
        if wanted in aliases:
            return device
    path = Path(name)
    if path.suffix.lower() in _SUFFIXES or path.is_file():
        return _read(path)
    known = ", ".join(device.name for device, _ in datasheets)
    raise ValueError(
        f"unknown device {name!r}; known: {known}, or the path of a JSON or YAML file with the "
        "datasheet of another (`twin devices h200` prints one to go by)"
    )


def _read(path: Path) -> Device:
    """A datasheet that somebody else wrote."""
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))  # JSON is YAML
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); {_EXPECTED}") from None
    except (UnicodeDecodeError, YamlError) as error:
        raise ValueError(f"{path}: {error}; {_EXPECTED}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds no mapping of keys; {_EXPECTED}")  # noqa: TRY004
    unknown = [key for key in values if key not in MEANS]
    if unknown:
        raise ValueError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(MEANS)}")
    product, sources = values.get("product"), values.get("sources") or {}
    if not (isinstance(product, str) and product.strip()):
        raise ValueError(f"{path}: product is {product!r}; expected {MEANS['product']}")
    if not isinstance(sources, dict) or not set(sources) <= set(_OVERRIDABLE):
        raise ValueError(
            f"{path}: sources is {sources!r}; expected a text for some of {', '.join(_OVERRIDABLE)}"
        )
    return Device(
        name=str(path),
        product=product,
        fp8_flops=None if values.get("fp8_flops") is None else _figure(path, values, "fp8_flops"),
        bf16_flops=_figure(path, values, "bf16_flops"),
        memory_bandwidth=_figure(path, values, "memory_bandwidth"),
        memory_bytes=int(_figure(path, values, "memory_bytes")),
        sources={key: str(text) for key, text in sources.items()},
    )


def _figure(path: Path, values: Mapping[str, Any], key: str) -> float:
    value: Any = values.get(key)
    try:
        figure = math.nan if isinstance(value, bool) else float(value)  # 2e15 is a text in YAML 1.1
    except (TypeError, ValueError):
        figure = math.nan
    if not _LEAST <= figure < math.inf:
        found = f"{key} is {value!r}" if key in values else f"{key} is missing"
        example = getattr(Device.load("h200"), key)
        raise ValueError(f"{path}: {found}; expected {MEANS[key]} (an H200's: {example:.4g})")
    return figure


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "-").replace("_", "-")


@cache
def _datasheets() -> tuple[tuple[Device, frozenset[str]], ...]:
    """All datasheets, each with every name it answers to."""
    entries = json.loads(_DATA.read_text(encoding="utf-8"))
    return tuple(
        (
            Device(name=name, **{key: entry[key] for key in MEANS}),
            frozenset(_key(alias) for alias in (name, entry["product"], *entry["aliases"])),
        )
        for name, entry in entries.items()
    )
