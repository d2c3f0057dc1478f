"""The serving engines that the scheduler follows: their defaults, and their own words for a policy.

An engine is a table. `preset` is laid under a config by its key `preset`; `translate` says a config
in the engine's command-line options, and what of it the engine could not do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.engines.base import Engine

NAMES = ("sglang", "vllm")
"""The engines there are, as `preset` and `twin export --to` name them."""


def engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        ValueError: for an unknown name; lists the known.
    """
    if name not in NAMES:
        raise ValueError(f"unknown engine {name!r}; known are {', '.join(NAMES)}")
    found: Engine = import_module(f"policies.engines.{name}").ENGINE
    return found
