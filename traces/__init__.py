"""Requests in, records out: workloads and their readers, and what a run leaves behind.

Names are imported when first used, so `import traces` costs nothing. Two functions share their name
with the module they live in and are imported from there: `from traces.generate import generate` and
`from traces.inspect import inspect`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces.errors import TraceError as TraceError
    from traces.inspect import TraceSummary as TraceSummary
    from traces.native import write_native as write_native
    from traces.plots.save import save_plots as save_plots
    from traces.readers.read import read_trace as read_trace
    from traces.records.comparison import compare as compare
    from traces.records.definitions import METRICS as METRICS
    from traces.records.errors import RecordError as RecordError
    from traces.records.itl import ItlAccumulator as ItlAccumulator
    from traces.records.metrics import goodput as goodput
    from traces.records.metrics import summarize as summarize
    from traces.records.run import Run as Run
    from traces.records.run import load_run as load_run
    from traces.records.tables import summary_table as summary_table
    from traces.records.writer import RunWriter as RunWriter
    from traces.tokens import BlockTokens as BlockTokens
    from traces.tokens import ExplicitTokens as ExplicitTokens
    from traces.tokens import JoinedTokens as JoinedTokens
    from traces.tokens import SyntheticTokens as SyntheticTokens
    from traces.tokens import Tokens as Tokens
    from traces.workload import TraceRequest as TraceRequest
    from traces.workload import Workload as Workload
    from traces.writers.write import write_trace as write_trace

# name -> the module it is defined in
_EXPORTS: dict[str, str] = {
    # requests in
    "BlockTokens": "traces.tokens",
    "ExplicitTokens": "traces.tokens",
    "JoinedTokens": "traces.tokens",
    "SyntheticTokens": "traces.tokens",
    "Tokens": "traces.tokens",
    "TraceError": "traces.errors",
    "TraceRequest": "traces.workload",
    "TraceSummary": "traces.inspect",
    "Workload": "traces.workload",
    "read_trace": "traces.readers.read",
    "write_native": "traces.native",
    "write_trace": "traces.writers.write",
    # records out
    "ItlAccumulator": "traces.records.itl",
    "METRICS": "traces.records.definitions",
    "RecordError": "traces.records.errors",
    "Run": "traces.records.run",
    "RunWriter": "traces.records.writer",
    "compare": "traces.records.comparison",
    "goodput": "traces.records.metrics",
    "load_run": "traces.records.run",
    "save_plots": "traces.plots.save",
    "summarize": "traces.records.metrics",
    "summary_table": "traces.records.tables",
}


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'traces' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
