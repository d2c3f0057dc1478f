"""Records out: what a run of either world leaves behind, and what can be read from it.

A run is a folder (`schema`): `RunWriter` writes it, `load_run` reads it as a `Run`, `summarize`
computes its metrics and `compare` lays runs side by side. Nothing here knows which world ran.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces.records.comparison import Comparison as Comparison
    from traces.records.comparison import compare as compare
    from traces.records.definitions import METRICS as METRICS
    from traces.records.errors import RecordError as RecordError
    from traces.records.itl import ItlAccumulator as ItlAccumulator
    from traces.records.metrics import Summary as Summary
    from traces.records.metrics import goodput as goodput
    from traces.records.metrics import summarize as summarize
    from traces.records.run import Run as Run
    from traces.records.run import load_run as load_run
    from traces.records.schema import RECORDS as RECORDS
    from traces.records.tables import summary_table as summary_table
    from traces.records.writer import RunWriter as RunWriter

# name -> the module it is defined in
_EXPORTS: dict[str, str] = {
    "Comparison": "traces.records.comparison",
    "ItlAccumulator": "traces.records.itl",
    "METRICS": "traces.records.definitions",
    "RECORDS": "traces.records.schema",
    "RecordError": "traces.records.errors",
    "Run": "traces.records.run",
    "RunWriter": "traces.records.writer",
    "Summary": "traces.records.metrics",
    "compare": "traces.records.comparison",
    "goodput": "traces.records.metrics",
    "load_run": "traces.records.run",
    "summarize": "traces.records.metrics",
    "summary_table": "traces.records.tables",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first used, so that what is heavy is loaded only where needed."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
