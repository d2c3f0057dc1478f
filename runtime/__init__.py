"""The real world: a torch runtime that serves models with the shared scheduler.

Names are imported when first used, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.config import RuntimeConfig as RuntimeConfig
    from runtime.engine import Engine as Engine
    from runtime.engine import EngineError as EngineError
    from runtime.requests import InvalidRequestError as InvalidRequestError
    from runtime.sampling.output import RequestOutput as RequestOutput
    from runtime.sampling.params import SamplingParams as SamplingParams
    from runtime.trace_replay import replay as replay
    from runtime.weights.load import LoadedModel as LoadedModel
    from runtime.weights.load import load_model as load_model

_EXPORTS = {
    "Engine": "runtime.engine",
    "EngineError": "runtime.engine",
    "InvalidRequestError": "runtime.requests",
    "LoadedModel": "runtime.weights.load",
    "RequestOutput": "runtime.sampling.output",
    "RuntimeConfig": "runtime.config",
    "SamplingParams": "runtime.sampling.params",
    "load_model": "runtime.weights.load",
    "replay": "runtime.trace_replay",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605 - a list, made from the table


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        msg = f"module 'runtime' has no attribute {name!r}"
        raise AttributeError(msg) from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
