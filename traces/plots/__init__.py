"""Pictures of runs, from their records alone: latency, throughput, queues, batches, KV, tenants.

Each function takes runs and returns a matplotlib `Figure` of its own; `save_plots` writes them
all. Nothing here knows which world wrote a run, or touches matplotlib's global state.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces.plots.batches import batch_size as batch_size
    from traces.plots.hits import cache_hits as cache_hits
    from traces.plots.kv import kv_use as kv_use
    from traces.plots.latency import latency_ecdf as latency_ecdf
    from traces.plots.output_rate import throughput as throughput
    from traces.plots.queues import queue_length as queue_length
    from traces.plots.save import save_figure as save_figure
    from traces.plots.save import save_plots as save_plots
    from traces.plots.style import THEMES as THEMES
    from traces.plots.tenants import by_tenant as by_tenant

# name -> the module it is defined in
_EXPORTS: dict[str, str] = {
    "THEMES": "traces.plots.style",
    "batch_size": "traces.plots.batches",
    "by_tenant": "traces.plots.tenants",
    "cache_hits": "traces.plots.hits",
    "kv_use": "traces.plots.kv",
    "latency_ecdf": "traces.plots.latency",
    "queue_length": "traces.plots.queues",
    "save_figure": "traces.plots.save",
    "save_plots": "traces.plots.save",
    "throughput": "traces.plots.output_rate",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first used, so that what is heavy is loaded only where needed."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
