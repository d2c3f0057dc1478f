"""How results are shown: tables on stdout, in colour for a terminal, plain and wide for a pipe."""

from __future__ import annotations

import json
import shutil
import sys
from math import isfinite
from textwrap import fill
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from traces.records.run import Run

PIPE_WIDTH = 200
"""Columns where stdout is no terminal: nobody has to see the lines whole."""

UNFOLDED = 30
"""Characters up to which a cell is kept on one line."""

READABLE = 24
"""Characters that a column of longer cells needs to be read."""

GAP = 3
"""Columns between two of a table."""


def show(renderable: RenderableType) -> None:
    """Print a table."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(renderable)
    else:
        from traces.records.tables import to_text

        click.echo(to_text(renderable, PIPE_WIDTH))


def show_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text under headings; columns of short cells are never folded.

    Where the terminal is too narrow for the others to be read, each row is a paragraph instead.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    widest = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    short = [width <= UNFOLDED for width in widest]
    needed = sum(
        (width if unfolded else READABLE) + GAP
        for width, unfolded in zip(widest, short, strict=True)
    )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    if needed > width:
        click.echo("\n\n".join(_paragraph(headings, row, short, width) for row in rows))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, unfolded in zip(headings, short, strict=True):
        table.add_column(Text(heading), overflow="fold", no_wrap=unfolded)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    show(table)


def _paragraph(
    headings: Sequence[str], row: Sequence[str], short: Sequence[bool], width: int
) -> str:
    """A row as lines: its first cell, the short ones together, and each long one from a line of its own."""
    first, *cells = zip(headings, row, short, strict=True)
    named = [(f"{heading}: {cell}", brief) for heading, cell, brief in cells if cell]
    lines = [", ".join(text for text, brief in named if brief)]
    lines += [text for text, brief in named if not brief]
    folded = (
        fill(
            line,
            width,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines
        if line
    )
    return "\n".join((click.style(first[1], bold=True), *folded))


def percent(share: float, form: str = ".1f") -> str:
    """A share in percent, in such a format; a dash for what is no number."""
    return f"{100 * share:{form}} %" if isfinite(share) else "-"


def show_json(value: object) -> None:
    """Print a value as JSON: what numbers there are, null for what does not exist."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def as_json(run: Run) -> dict[str, Any]:
    """A run's metrics, with where it is and how it ended."""
    return {
        "run": None if run.path is None else str(run.path),
        "status": run.status,
        **run.summary().to_dict(),
    }


def save_and_name_plots(runs: Sequence[Run], folder: Path, names: Sequence[str]) -> None:
    """Draw the plots of some runs, and print their paths on stderr."""
    from traces.plots.save import save_plots

    for file in save_plots(runs, folder, names):
        click.echo(f"plot: {file}", err=True)
