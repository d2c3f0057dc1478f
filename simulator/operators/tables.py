"""AIConfigurator's operator tables: where they are, what there is, and reading one.

Layout `<root>/<gpu>/<family>/<framework>/<version>/<file>_perf.parquet`: a folder in it, or the
installed package `aiconfigurator-core` (Apache-2.0), whose root is `aiconfigurator_core/systems/data`.
Latencies are milliseconds per call of one operator; here they become nanoseconds. A table of
communication may come from another version than asked for, since few were collected; that is noted
in `Tables.notes`. Nothing else is ever substituted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

PACKAGE: Final = "aiconfigurator_core"
LICENCE: Final = "Apache-2.0"
ALIASES: Final = {"h200": "h200_sxm", "h100": "h100_sxm", "a100": "a100_sxm", "b200": "b200_sxm"}
FAMILIES: Final = ("gemm", "attention", "moe")
NS_PER_MS: Final = 1e6


class TableError(ValueError):
    """A table that is not there, or holds nothing for what was asked."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one GPU under one framework version.

    Attributes:
        root: folder with a folder per GPU.
        gpu: as its folder is called.
        framework: `sglang`, `vllm` or `trtllm`.
        version: of the framework.
        notes: what was read from elsewhere than asked.
    """

    root: Path
    gpu: str
    framework: str
    version: str
    notes: list[str] = field(default_factory=list, compare=False)

    @classmethod
    def open(
        cls,
        gpu: str,
        framework: str,
        version: str | None = None,
        *,
        root: str | Path | None = None,
    ) -> Tables:
        """Find the tables of a GPU.

        Args:
            gpu: a folder's name (`h200_sxm`), or short (`h200`).
            framework: which collection.
            version: of the framework; the newest that has matrix products when left out.
            root: a folder in the layout; the installed package when left out.

        Raises:
            TableError: lists what there is.
        """
        where = _root(root)
        folder = where / ALIASES.get(gpu.lower(), gpu)
        if not folder.is_dir():
            known = sorted(p.name for p in where.iterdir() if (p / "gemm").is_dir())
            raise TableError(f"no tables of GPU {gpu!r} in {where}; there are: {', '.join(known)}")
        known = sorted(p.name for p in (folder / "gemm").iterdir() if p.is_dir())
        if framework not in known:
            raise TableError(
                f"no tables of {framework!r} for {folder.name}; there are: {', '.join(known)}"
            )
        versions = sorted((p.name for p in (folder / "gemm" / framework).iterdir()), key=_order)
        if version is not None and version not in versions:
            raise TableError(
                f"no tables of {framework} {version} for {folder.name}; "
                f"there are: {', '.join(versions)}"
            )
        return cls(where, folder.name, framework, version or versions[-1])

    @property
    def source(self) -> str:
        """What to name when quoting figures from them."""
        return f"AIConfigurator operator tables ({LICENCE}): {self.gpu}, {self.framework} {self.version}"

    def read(self, family: str, file: str) -> pd.DataFrame:
        """A table of this version, with a column `ns`.

        Raises:
            TableError: if it is not there; lists the versions that have it.
        """
        path = self._path(family, self.framework, self.version, file)
        if not path.is_file():
            others = self._versions(family, self.framework, file)
            raise TableError(
                f"{self.gpu} {self.framework} {self.version} has no table {family}/{file}; "
                f"versions that have it: {', '.join(others) or 'none'}"
            )
        return _read(path)

    def read_communication(self, file: str, framework: str | None = None) -> pd.DataFrame:
        """A table of the family `comm`, from the version nearest to this one; noted if another.

        Raises:
            TableError: if no version has it.
        """
        name = framework or self.framework
        versions = self._versions("comm", name, file)
        if not versions:
            raise TableError(f"{self.gpu} has no table comm/{name}/*/{file}")
        version = self.version if self.version in versions else versions[-1]
        if version != self.version:
            note = f"{file}: from {name} {version}"
            if note not in self.notes:
                self.notes.append(note)
        return _read(self._path("comm", name, version, file))

    def _path(self, family: str, framework: str, version: str, file: str) -> Path:
        return self.root / self.gpu / family / framework / version / f"{file}_perf.parquet"

    def _versions(self, family: str, framework: str, file: str) -> list[str]:
        found = (self.root / self.gpu / family / framework).glob(f"*/{file}_perf.parquet")
        return sorted((p.parent.name for p in found), key=_order)


def _root(root: str | Path | None) -> Path:
    if root is not None:
        folder = Path(root)
        for candidate in (
            folder,
            folder / "systems" / "data",
            folder / PACKAGE / "systems" / "data",
        ):
            if any(candidate.glob("*/gemm")):
                return candidate
        raise TableError(
            f"{folder} holds no operator tables; expected <gpu>/<family>/<framework>/<version>/"
            "*.parquet under it"
        )
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise TableError(
            "no operator tables: name a folder that holds them, or install the package "
            "aiconfigurator-core"
        )
    return _root(spec.submodule_search_locations[0])


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    table = pd.read_parquet(path)
    if "latency" in table.columns:
        table = table[table["latency"] > 0]
        table = table.assign(ns=table["latency"] * NS_PER_MS)
    if "head_dim" in table.columns and "window_size" not in table.columns:
        table = table.assign(window_size=0)  # collections before sliding windows were measured
    return table


def _order(version: str) -> tuple[tuple[int, ...], str]:
    """Versions by their numbers, so that 0.5.10 comes after 0.5.9."""
    numbers = [int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")]
    return tuple(numbers), version
