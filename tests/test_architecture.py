"""Who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("policies", "traces", "simulator", "runtime", "twin")
NEVER = {
    "policies": {
        *("traces", "simulator", "runtime", "twin"),
        *("torch", "simpy", "time", "datetime", "asyncio", "threading"),
    },
    "traces": {"policies", "simulator", "runtime", "twin", "torch", "simpy"},
    "simulator": {"runtime", "twin", "torch", "triton", "flashinfer", "time"},
    "runtime": {"simulator", "twin", "simpy"},
}
LONGEST_FILE = 400
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The top-level packages a file imports anywhere, if only for its types."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it leads"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", NEVER)
def test_nobody_imports_what_is_above_or_beside_it(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        wrong = imported(path) & NEVER[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_arrows_would_be_missed(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden.py"
    hidden.write_text("def f() -> None:\n    if True:\n        from simulator.world import World\n")
    assert imported(hidden) == {"simulator"}


def test_a_file_is_read_in_one_sitting() -> None:
    for path in SOURCES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= LONGEST_FILE, f"{path.relative_to(ROOT)} has {lines} lines"


def test_every_module_says_what_it_is() -> None:
    for path in SOURCES:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, f"{path.relative_to(ROOT)} has no docstring"


@pytest.mark.parametrize(
    ("package", "heavy"),
    [
        ("policies", {"torch", "simpy", "pydantic", "numpy", "pandas", "pyarrow", "matplotlib"}),
        ("traces", {"torch", "simpy", "pandas", "pyarrow", "scipy", "matplotlib"}),
        ("simulator", {"torch", "pandas", "pyarrow", "scipy", "matplotlib"}),
    ],
)
def test_importing_a_package_is_cheap(package: str, heavy: set[str]) -> None:
    code = f"import sys, {package}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("package", ["policies"])
def test_every_name_a_package_offers_is_there(package: str) -> None:
    code = f"import {package}; print([n for n in dir({package}) if getattr({package}, n) is None])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
