"""Generated workloads: requests with the measured statistics of a published trace, or as described.

Names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces.generate.library import preset as preset
    from traces.generate.library import presets as presets
    from traces.generate.spec import WorkloadSpec as WorkloadSpec
    from traces.generate.stream import RequestStream as RequestStream
    from traces.generate.stream import generate as generate
    from traces.generate.stream import generate_stream as generate_stream

# name -> the module it is defined in
_EXPORTS = {
    "RequestStream": "traces.generate.stream",
    "WorkloadSpec": "traces.generate.spec",
    "generate": "traces.generate.stream",
    "generate_stream": "traces.generate.stream",
    "preset": "traces.generate.library",
    "presets": "traces.generate.library",
}


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'traces.generate' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
