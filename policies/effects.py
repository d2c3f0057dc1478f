"""The effects that an event loop yields and a world answers.

A loop is a generator. It does no I/O and reads no clock: it yields one of these and is sent the
answer. Anything that can answer them is a world.

| effect | answer |
|---|---|
| `Receive()` | `Inbox` |
| `Launch(batch)` | a ticket: any object that `Collect` is given back |
| `Collect(ticket)` | `StepResult` |
| `Report(events)` | None |
| `Sleep(until)` | None |
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.batch import Batch, Events


@dataclass(frozen=True, slots=True)
class Receive:
    """Ask what has come in. Never blocks."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Put a batch on the device and go on. Never blocks."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Collect:
    """Wait until a launched batch is done."""

    ticket: Any


@dataclass(frozen=True, slots=True)
class Report:
    """Tell what clients could notice."""

    events: Events


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait until something comes in, or until a time (ns) if one is given."""

    until: int | None = None


Effect = Receive | Launch | Collect | Report | Sleep
Loop = Generator[Effect, Any, None]

RECEIVE = Receive()
