"""The page on architecture names every module there is, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

from policies import effects

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ("policies", "traces", "simulator", "runtime", "twin")


def modules() -> set[str]:
    """Every module; a package's `__init__.py` only passes names on, and needs no line."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }


def test_every_module_has_its_line():
    rows = re.findall(r"^\| `([\w/]+\.py)` \| \S.* \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert modules() - set(rows) == set()


def test_every_path_it_names_exists():
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", PAGE))
    assert {name for name in named if not (ROOT / name).exists()} - {"requests.parquet"} == set()


def test_every_effect_is_described():
    for effect in effects.Effect.__args__:
        assert f"| `{effect.__name__}(" in PAGE
