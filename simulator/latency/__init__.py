"""Latency models: device time of a batch, each model behind `LatencyModel`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.latency.base import LatencyModel, StepShape
    from simulator.latency.roofline import RooflineLatency, RooflineOptions

__all__ = ["LatencyModel", "RooflineLatency", "RooflineOptions", "StepShape"]

_HOME = {
    "LatencyModel": "simulator.latency.base",
    "StepShape": "simulator.latency.base",
    "RooflineLatency": "simulator.latency.roofline",
    "RooflineOptions": "simulator.latency.roofline",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
