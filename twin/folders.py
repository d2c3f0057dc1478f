"""Where runs go when nobody says: under `runs/`, named for what they are, never over another."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

RUNS = Path("runs")
_LONGEST = 80


def file_name(text: str) -> str:
    """The text as the name of a file: letters, digits, `.`, `_`, `=`, `,` and `-`."""
    return re.sub(r"[^\w.=,-]+", "-", text).strip("-.")[:_LONGEST] or "run"


def new_folder(name: str) -> Path:
    """`runs/<name>`, or the first of `runs/<name>-2`, `-3` ... that does not exist."""
    plain = RUNS / file_name(name)
    if not plain.exists():
        return plain
    return next(
        path for i in count(2) if not (path := plain.with_name(f"{plain.name}-{i}")).exists()
    )
