"""What went wrong, as one message and an exit code: 2 for what was asked, 1 for a run that failed.

Known errors carry their own words. Anything else is a fault of the program and keeps its traceback,
but for a fault in a user's own policy file, which is named with its line. Ctrl-C exits with 130.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator


class Failure(click.ClickException):
    """A message for stderr, with an exit code."""


class BadInput(Failure):
    """What was asked for cannot be done: a value, a file, a config."""

    exit_code = 2


class RunFailed(Failure):
    """What was asked for was begun and failed."""

    exit_code = 1


class Interrupted(Failure):
    """Ctrl-C; the message says what was kept."""

    exit_code = 130  # 128 + SIGINT, as shells say it

    def show(self, file: IO[Any] | None = None) -> None:
        """Said without the word error: it was asked for."""
        click.echo(f"Interrupted: {self.message}", file=file, err=file is None)


@contextmanager
def clear_failures() -> Iterator[None]:
    """Turn known errors into a `Failure`.

    Raises:
        Failure: for a known error.
        Interrupted: on Ctrl-C.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        raise Interrupted("nothing was recorded") from None
    except Exception as error:
        known = as_failure(error)
        if known is None:
            raise
        raise known from error


@contextmanager
def bad_input() -> Iterator[None]:
    """Where a value given on the command line is used: a `ValueError` is about that value.

    Raises:
        BadInput: with the error's words.
    """
    try:
        yield
    except ValueError as error:
        raise BadInput(str(error)) from error


def as_failure(error: Exception) -> Failure | None:
    """The error as a message and an exit code, or None for a fault of the program."""
    from policies.config import ConfigError
    from policies.registry import StrategyError, StrategyOptionError, UnknownStrategyError
    from policies.stuck import StuckError
    from simulator.world import RefusedError
    from traces.errors import TraceError
    from traces.records.errors import RecordError
    from twin.plugins import blamed

    text = "\n".join([str(error), *getattr(error, "__notes__", ())])
    match error:
        case ConfigError() | UnknownStrategyError() | StrategyOptionError() | TraceError():
            return BadInput(text)
        case RecordError():
            # what the file system refused came up while running; the rest is what was asked for
            return RunFailed(text) if isinstance(error.__cause__, OSError) else BadInput(text)
        case StuckError() | RefusedError() | StrategyError():
            return RunFailed(text)
        case OSError():
            return RunFailed(f"{error.filename}: {error.strerror}" if error.filename else text)
    where = blamed(error)
    return None if where is None else RunFailed(where)
