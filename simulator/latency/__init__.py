"""Latency models: device time of a batch, each model behind `LatencyModel`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.latency.base import LatencyModel, StepShape
    from simulator.latency.calibrated import CalibratedLatency
    from simulator.latency.operators import OperatorLatency
    from simulator.latency.replayed import ReplayedLatency
    from simulator.latency.roofline import RooflineLatency, RooflineOptions

__all__ = [
    "CalibratedLatency",
    "LatencyModel",
    "OperatorLatency",
    "ReplayedLatency",
    "RooflineLatency",
    "RooflineOptions",
    "StepShape",
]

_HOME = {
    "CalibratedLatency": "simulator.latency.calibrated",
    "LatencyModel": "simulator.latency.base",
    "OperatorLatency": "simulator.latency.operators",
    "ReplayedLatency": "simulator.latency.replayed",
    "StepShape": "simulator.latency.base",
    "RooflineLatency": "simulator.latency.roofline",
    "RooflineOptions": "simulator.latency.roofline",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
