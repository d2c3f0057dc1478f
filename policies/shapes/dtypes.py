"""Names of data types, and how wide they are.

It does not know which of them a device computes with.
"""

from __future__ import annotations

from typing import Final

_DTYPE_BYTES: Final = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
_DTYPE_ALIASES: Final = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
}


def canonical_dtype(name: str) -> str:
    """The full name of a data type: `bf16` is `bfloat16`, `fp8` is `float8_e4m3fn`.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones.
    """
    full = _DTYPE_ALIASES.get(name, name)
    if full not in _DTYPE_BYTES:
        known = ", ".join([*_DTYPE_ALIASES, *_DTYPE_BYTES])
        raise ValueError(f"unknown dtype {name!r}; known: {known}")
    return full


def dtype_bytes(name: str) -> int:
    """Bytes of one element of a data type, by full name or alias."""
    return _DTYPE_BYTES[canonical_dtype(name)]
