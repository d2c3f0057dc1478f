"""Triton's kernels, run by Triton's interpreter where there is no GPU.

Whether Triton interprets is settled when a kernel's module is imported. So each file of interpreted
tests runs in a process of its own, whatever else the tests of this process have imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(path.relative_to(ROOT) for path in ROOT.glob("tests/runtime/*/interpreted_*.py"))


@pytest.mark.interpret
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_in_the_interpreter(path: Path) -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
