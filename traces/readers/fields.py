"""The fields of a row, JSON or CSV, each taken with the type it must have.

Every function raises `RowError` with the field, what was found and what was expected.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import NoReturn

import numpy as np

from traces.errors import RowError, shown
from traces.tokens import MAX_LENGTH

MAX_INT64 = 2**63 - 1
UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
Row = dict[str, object]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON_SPACE = " \t\n\r"
_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def json_row(line: str) -> Row:
    """The JSON object on a line."""
    try:
        begin = len(line) - len(line.lstrip(_JSON_SPACE))
        row, end = _DECODER.raw_decode(line, begin)
        if end < len(line):  # white space, or something else: `decode` takes longer and says what
            row = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise RowError(
            f"{shown(line)} ({error})", "one well-formed JSON object on the line"
        ) from None
    return an_object(row)


def an_object(value: object) -> Row:
    """A JSON object."""
    if not isinstance(value, dict):
        raise RowError(shown(value), "a JSON object")
    return value


@lru_cache(maxsize=64)
def row_keys(line: str) -> frozenset[str]:
    """The keys of the JSON object on a line; none where it holds anything else."""
    if not line.startswith("{"):
        return frozenset()
    try:
        return frozenset(json_row(line))
    except RowError:
        return frozenset()


def required(row: Row, field: str, expected: str) -> object:
    """The value of a field that must be there; `expected` describes it."""
    if field not in row:
        raise RowError("no such field", expected, field=field)
    return row[field]


def first_of(row: Row, names: tuple[str, ...]) -> tuple[str, object]:
    """The one of several names that a row uses for a field, and its value; None if it has none."""
    for name in names:
        if name in row:
            return name, row[name]
    return names[0], None


def integer(value: object, field: str, low: int = 0, high: int = MAX_INT64) -> int:
    """An integer in low..high; `true` and `3.0` are none."""
    if type(value) is not int or not low <= value <= high:
        raise RowError(shown(value), f"an integer in {low}..{high}", field=field)
    return value


def length(value: object, field: str) -> int:
    """A number of tokens, at least one."""
    return integer(value, field, low=1, high=MAX_LENGTH)


def count(value: object, field: str) -> int:
    """A number of tokens, perhaps none."""
    return integer(value, field, low=0, high=MAX_LENGTH)


@lru_cache(maxsize=8192)  # lengths repeat, and looking at the text takes five times as long
def csv_count(text: str, field: str, low: int = 1) -> int:
    """A number of tokens as CSV writes it, at least `low`."""
    if text.isascii() and text.isdigit() and low <= int(text[:11]) <= MAX_LENGTH:
        return int(text[:11])
    raise RowError(shown(text), f"an integer in {low}..{MAX_LENGTH}", field=field)


def time_ns(value: object, field: str, unit: str) -> int:
    """Nanoseconds of a time or duration of 0 or more in `unit`: s, ms, us or ns.

    Whole numbers are exact; others are rounded once, to the nearest nanosecond.
    """
    unit_ns = UNITS[unit]
    if type(value) is int and 0 <= value <= MAX_INT64 // unit_ns:
        return value * unit_ns
    if type(value) is float and math.isfinite(value) and 0 <= value <= MAX_INT64 / unit_ns / 2:
        return round(value * unit_ns)
    raise RowError(shown(value), f"{_UNIT_NAMES[unit]}, a number of 0 or more", field=field)


def csv_time_ns(text: str, field: str, unit: str) -> int:
    """Nanoseconds of a time of 0 or more as CSV writes it, in `unit`."""
    try:
        value: object = int(text) if text.isascii() and text.isdigit() else float(text)
    except ValueError:
        value = text
    return time_ns(value, field, unit)


def string(value: object, field: str) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise RowError(shown(value), "a string that is not empty", field=field)
    return value


def name_of(value: object, field: str) -> str:
    """A name: a string that is not empty, or an integer, which is written out."""
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value:
        raise RowError(shown(value), "a string or an integer", field=field)
    return value


def objects(value: object, field: str) -> list[Row]:
    """A list of JSON objects, at least one."""
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise RowError(shown(value), "a list of JSON objects", field=field)
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
