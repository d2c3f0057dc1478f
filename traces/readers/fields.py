"""The fields of a JSON row, each taken with the type it must have.

Every function raises `RowError` with the field, what was found and what was expected.
"""

from __future__ import annotations

import json
from typing import NoReturn

import numpy as np

from traces.errors import RowError, shown
from traces.tokens import MAX_LENGTH

MAX_INT64 = 2**63 - 1
Row = dict[str, object]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def json_row(line: str) -> Row:
    """The JSON object on a line."""
    try:
        row = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise RowError(
            f"{shown(line)} ({error})", "one well-formed JSON object on the line"
        ) from None
    if not isinstance(row, dict):
        raise RowError(shown(row), "a JSON object")
    return row


def required(row: Row, field: str, expected: str) -> object:
    """The value of a field that must be there; `expected` describes it."""
    if field not in row:
        raise RowError("no such field", expected, field=field)
    return row[field]


def integer(value: object, field: str, low: int = 0, high: int = MAX_INT64) -> int:
    """An integer in low..high; `true` and `3.0` are none."""
    if type(value) is not int or not low <= value <= high:
        raise RowError(shown(value), f"an integer in {low}..{high}", field=field)
    return value


def length(value: object, field: str) -> int:
    """A number of tokens, at least one."""
    return integer(value, field, low=1, high=MAX_LENGTH)


def string(value: object, field: str) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise RowError(shown(value), "a string that is not empty", field=field)
    return value


def integers(value: object, field: str, high: int = MAX_INT64) -> np.ndarray:
    """A list of integers in 0..high, as int64."""
    expected = f"a list of integers in 0..{high}"
    if not isinstance(value, list):
        raise RowError(shown(value), expected, field=field)
    if not set(map(type, value)) <= {int}:
        wrong = next(item for item in value if type(item) is not int)
        raise RowError(f"{shown(wrong)} in the list", expected, field=field)
    if value and not (min(value) >= 0 and max(value) <= high):
        wrong = next(item for item in value if not 0 <= item <= high)
        raise RowError(f"{shown(wrong)} in the list", expected, field=field)
    return np.array(value, dtype=np.int64)


class Clock:
    """Holds arrival times to their order: none earlier than the one before it."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._last_ns = -1
        self._last: object = None

    def check(self, time_ns: int, written: object) -> int:
        """The time, which is remembered as `written` for the next row's error."""
        if time_ns < self._last_ns:
            raise RowError(
                f"{shown(written)}, earlier than the row before",
                f"{shown(self._last)} or later (rows in the order they arrive)",
                field=self._field,
            )
        self._last_ns, self._last = time_ns, written
        return time_ns
