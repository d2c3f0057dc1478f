"""Operators: measured kernels as curves and surfaces, from tables to a profile that ships."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.operators.from_tables import condense
    from simulator.operators.llmservingsim import read_llmservingsim
    from simulator.operators.profile import OperatorProfile
    from simulator.operators.shards import Parallel
    from simulator.operators.tables import Tables

__all__ = ["OperatorProfile", "Parallel", "Tables", "condense", "read_llmservingsim"]

_HOME = {
    "OperatorProfile": "simulator.operators.profile",
    "Parallel": "simulator.operators.shards",
    "Tables": "simulator.operators.tables",
    "condense": "simulator.operators.from_tables",
    "read_llmservingsim": "simulator.operators.llmservingsim",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
