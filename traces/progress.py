"""Progress bars on standard error, counting requests."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress


def request_bars() -> Progress:
    """Room for bars, each with what is done, how many requests have ended, and the time."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("requests"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar; call what it gives with how many requests have ended so far.

    Args:
        what: is being done.
        total: requests; None if that is not known.
    """
    with request_bars() as shown:
        task = shown.add_task(what, total=total)
        yield lambda ended: shown.update(task, completed=ended)
