"""The tests marked gpu, in a process of their own; where a package they need is missing, it is said.

Warnings are no errors here: the packages on a machine with a GPU may be other versions than those that the
tests are kept clean with.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place

ROOT = Path(__file__).resolve().parents[2]
TINY = "tests/runtime/attention/test_sequences.py"  # any quick tests without a GPU


def run(place: Place) -> None:
    """See the module.

    Raises:
        RuntimeError: where tests fail; the figures name them.
    """
    files = [TINY] if place.tiny else marked_files()
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider"]
        command += ["--continue-on-collection-errors", f"--junitxml={report}", *files]
        if not place.tiny:
            command += ["-m", "gpu"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        figures = read_report(report) if report.is_file() else {}
    place.note("exit status", done.returncode)
    place.note("files", files)
    for key, value in figures.items():
        place.note(key, value)
    if done.returncode:
        place.note("end of output", done.stdout.splitlines()[-40:] + done.stderr.splitlines()[-10:])
        raise RuntimeError(f"pytest ended with {done.returncode}")


def marked_files() -> list[str]:
    """Test files with tests marked gpu; others may need packages that are not there."""
    marked = re.compile(r"pytest\.mark\.gpu\b")
    return sorted(
        str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("test_*.py")
        if marked.search(file.read_text(encoding="utf-8"))
    )


def read_report(report: Path) -> dict[str, Any]:
    """Counts, and what failed or could not run and why, from JUnit's XML."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest has just written it
        name = f"{case.get('classname')}::{case.get('name')}"
        for child in case:
            if child.tag in {"failure", "error"}:
                failed[name] = (child.get("message") or "")[:500]
            elif child.tag == "skipped":
                skipped[name] = (child.get("message") or "")[:200]
        counts["passed"] += name not in failed and name not in skipped
    counts["failed"], counts["skipped"] = len(failed), len(skipped)
    return {**counts, "failures": failed, "skips": skipped}
