"""A run as a timeline for ui.perfetto.dev, from its records alone.

`write_timeline` writes it; `events` knows the format, `steps`, `tracks` and `admissions` what of a
run's records goes into it. Nothing here knows which world wrote the run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces.timeline.write import Written as Written
    from traces.timeline.write import write_timeline as write_timeline

# name -> the module it is defined in
_EXPORTS: dict[str, str] = {
    "Written": "traces.timeline.write",
    "write_timeline": "traces.timeline.write",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first used, so that what is heavy is loaded only where needed."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
