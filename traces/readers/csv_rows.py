"""Rows of a CSV trace by the names of their columns."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, TypeVar

from traces.errors import RowError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from traces.readers.lines import TraceLines

T = TypeVar("T")


def columns(line: str) -> list[str]:
    """The fields of a line.

    Raises:
        RowError: quotes in it do not match.
    """
    try:
        return [field.strip() for field in next(csv.reader([line], strict=True), [])]
    except csv.Error as error:
        raise RowError(f"{shown(line)} ({error})", "comma-separated fields") from None


def has_columns(line: str, names: tuple[str, ...]) -> bool:
    """Whether a line is a header with these columns."""
    try:
        return set(names) <= set(columns(line))
    except RowError:
        return False


def csv_rows(
    source: TraceLines,
    lines: Iterator[tuple[int, str]],
    needed: tuple[str, ...],
    parse: Callable[[dict[str, str]], T],
    limit: int | None,
) -> Iterator[tuple[int, T]]:
    """Ordinals and parsed rows under a header that has the columns needed.

    Raises:
        TraceError: there is no such header, or a row is wrong and bad rows are not left out.
    """
    number, header = next(lines)
    if not has_columns(header, needed):
        wrong = RowError(shown(header), f"a header with {', '.join(needed)}")
        raise source.at(number, header, wrong)
    names = columns(header)

    def by_name(line: str) -> T:
        fields = columns(line)
        if len(fields) != len(names):
            raise RowError(
                f"{len(fields)} fields in {shown(line)}", f"{len(names)}: {', '.join(names)}"
            )
        return parse(dict(zip(names, fields, strict=True)))

    yield from source.rows(lines, by_name, limit)
