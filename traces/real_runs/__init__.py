"""Real runs in: result files of engines and load generators become per-request times.

Names are imported when first used, so `import traces.real_runs` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces.real_runs.base import EngineSettings as EngineSettings
    from traces.real_runs.base import RealRequest as RealRequest
    from traces.real_runs.base import RealRun as RealRun
    from traces.real_runs.base import RealSeries as RealSeries
    from traces.real_runs.read import read_real_run as read_real_run

_EXPORTS = {
    "EngineSettings": "traces.real_runs.base",
    "RealRequest": "traces.real_runs.base",
    "RealRun": "traces.real_runs.base",
    "RealSeries": "traces.real_runs.base",
    "read_real_run": "traces.real_runs.read",
}


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'traces.real_runs' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
