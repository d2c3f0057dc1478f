"""Attention over the paged KV cache, behind one interface.

Names are imported when first used, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.attention.base import AttentionBackend as AttentionBackend
    from runtime.attention.base import Sequences as Sequences
    from runtime.attention.base import sequences as sequences
    from runtime.attention.choose import Choice as Choice
    from runtime.attention.choose import choose as choose

_EXPORTS = {
    "AttentionBackend": "runtime.attention.base",
    "Choice": "runtime.attention.choose",
    "Sequences": "runtime.attention.base",
    "choose": "runtime.attention.choose",
    "sequences": "runtime.attention.base",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605 - a list, made from the table


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        msg = f"module 'runtime.attention' has no attribute {name!r}"
        raise AttributeError(msg) from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
