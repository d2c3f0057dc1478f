"""What is wrong with a trace: where, what was found there, and what would be right.

A parser sees one row and raises `RowError`; the reader, which knows the file and the line, turns it
into `TraceError`, or counts it when bad rows are to be left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SHOWN = 80  # characters of a found value that an error repeats


class TraceError(ValueError):
    """A trace that cannot be read, or a row in it.

    Attributes:
        path: the file, as it was given.
        line: 1-based line of the uncompressed text; None where the file as a whole is wrong.
        field: the field of that line; None where the line as a whole is wrong.
        found: what stands there, shortened.
        expected: what would be right.
    """

    def __init__(
        self,
        path: str | Path,
        found: str,
        expected: str,
        *,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        self.path = str(path)
        self.line = line
        self.field = field
        self.found = found
        self.expected = expected
        where = self.path if line is None else f"{self.path}, line {line}"
        what = "" if field is None else f"field {field!r}: "
        super().__init__(f"{where}: {what}found {found}; expected {expected}")


class RowError(Exception):
    """One row is wrong; which file and line it stands in is for the reader to add."""

    def __init__(self, found: str, expected: str, *, field: str | None = None) -> None:
        super().__init__(found, expected, field)
        self.found = found
        self.expected = expected
        self.field = field


def shown(value: object) -> str:
    """A value as an error message repeats it: its repr, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
