"""What decides: the scheduler, its strategies, its event loops and its config.

Everything here is written once and runs in both worlds. Names are imported when they are first used,
so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.accidents import Accidents as Accidents
    from policies.batch import Batch as Batch
    from policies.batch import DecodeRows as DecodeRows
    from policies.batch import Events as Events
    from policies.batch import Inbox as Inbox
    from policies.batch import Mode as Mode
    from policies.batch import PrefillItem as PrefillItem
    from policies.batch import StepResult as StepResult
    from policies.config import Config as Config
    from policies.config import ConfigError as ConfigError
    from policies.config import PolicyConfig as PolicyConfig
    from policies.config import load_config as load_config
    from policies.config import make_config as make_config
    from policies.effects import NOT_REPEATED as NOT_REPEATED
    from policies.effects import Collect as Collect
    from policies.effects import Launch as Launch
    from policies.effects import Receive as Receive
    from policies.effects import Repeat as Repeat
    from policies.effects import Repeated as Repeated
    from policies.effects import Report as Report
    from policies.effects import Sleep as Sleep
    from policies.kv.pool import CountingPool as CountingPool
    from policies.kv.pool import IndexedPool as IndexedPool
    from policies.loops import LOOPS as LOOPS
    from policies.loops import overlapped as overlapped
    from policies.loops import serial as serial
    from policies.model_shape import ModelShape as ModelShape
    from policies.orders.base import KeyOrder as KeyOrder
    from policies.orders.base import QueueOrder as QueueOrder
    from policies.orders.base import QueueView as QueueView
    from policies.registry import BATCHINGS as BATCHINGS
    from policies.registry import EVICTIONS as EVICTIONS
    from policies.registry import ORDERS as ORDERS
    from policies.registry import RETRACTIONS as RETRACTIONS
    from policies.request import FinishReason as FinishReason
    from policies.request import Request as Request
    from policies.request import State as State
    from policies.scheduler import Scheduler as Scheduler
    from policies.tokens import KnownTokens as KnownTokens
    from policies.tokens import TokenLog as TokenLog
    from policies.tokens import TokenSource as TokenSource

_EXPORTS = {
    "Accidents": "accidents",
    "BATCHINGS": "registry",
    "Batch": "batch",
    "Collect": "effects",
    "Config": "config",
    "ConfigError": "config",
    "CountingPool": "kv.pool",
    "DecodeRows": "batch",
    "EVICTIONS": "registry",
    "Events": "batch",
    "FinishReason": "request",
    "Inbox": "batch",
    "IndexedPool": "kv.pool",
    "KeyOrder": "orders.base",
    "KnownTokens": "tokens",
    "LOOPS": "loops",
    "Launch": "effects",
    "Mode": "batch",
    "NOT_REPEATED": "effects",
    "ModelShape": "model_shape",
    "ORDERS": "registry",
    "PolicyConfig": "config",
    "PrefillItem": "batch",
    "QueueOrder": "orders.base",
    "QueueView": "orders.base",
    "RETRACTIONS": "registry",
    "Receive": "effects",
    "Repeat": "effects",
    "Repeated": "effects",
    "Report": "effects",
    "Request": "request",
    "Scheduler": "scheduler",
    "Sleep": "effects",
    "State": "request",
    "StepResult": "batch",
    "TokenLog": "tokens",
    "TokenSource": "tokens",
    "load_config": "config",
    "make_config": "config",
    "overlapped": "loops",
    "serial": "loops",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605 - a list, made from the table


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        msg = f"module 'policies' has no attribute {name!r}"
        raise AttributeError(msg) from None
    return getattr(import_module(f"policies.{module}"), name)


def __dir__() -> list[str]:
    return __all__
