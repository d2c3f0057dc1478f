"""How results are shown: tables on stdout, in colour for a terminal, plain and wide for a pipe."""

from __future__ import annotations

import json
import sys
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


def show(renderable: RenderableType) -> None:
    """Print a table."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(renderable)
    else:
        from traces.records.tables import to_text

        click.echo(to_text(renderable, PIPE_WIDTH))


def show_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text under headings; columns of short cells are never folded."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, *cells in zip(headings, *rows, strict=True):
        short = max(map(len, cells), default=0) <= UNFOLDED
        table.add_column(Text(heading), overflow="fold", no_wrap=short)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    show(table)


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
