"""The virtual world: a SimPy simulation of an engine that serves with the shared scheduler.

Names are imported when first used, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.capacity import kv_capacity_tokens as kv_capacity_tokens
    from simulator.config import Plan as Plan
    from simulator.config import SimulatorConfig as SimulatorConfig
    from simulator.devices import Device as Device
    from simulator.host import HostModel as HostModel
    from simulator.latency import LatencyModel as LatencyModel
    from simulator.latency import RooflineLatency as RooflineLatency
    from simulator.latency import StepShape as StepShape
    from simulator.simulation import simulate as simulate
    from simulator.world import World as World

_EXPORTS = {
    "Device": "simulator.devices",
    "HostModel": "simulator.host",
    "LatencyModel": "simulator.latency.base",
    "Plan": "simulator.config",
    "RooflineLatency": "simulator.latency.roofline",
    "SimulatorConfig": "simulator.config",
    "StepShape": "simulator.latency.base",
    "World": "simulator.world",
    "kv_capacity_tokens": "simulator.capacity",
    "simulate": "simulator.simulation",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605 - a list, made from the table


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        msg = f"module 'simulator' has no attribute {name!r}"
        raise AttributeError(msg) from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
