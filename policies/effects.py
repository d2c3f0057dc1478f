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
| `Repeat(batch, at_most, ...)` | `Repeated` |

Nobody changes an effect once it is made. That is not enforced, as for all messages between the two sides:
several are made in every step, and a frozen dataclass takes twice as long to make.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.batch import Batch, DecodeRows, Events


@dataclass(slots=True, eq=False)
class Receive:
    """Ask what has come in. Never blocks."""


@dataclass(slots=True, eq=False)
class Launch:
    """Put a batch on the device and go on. Never blocks."""

    batch: Batch


@dataclass(slots=True, eq=False)
class Collect:
    """Wait until a launched batch is done."""

    ticket: Any


@dataclass(slots=True, eq=False)
class Report:
    """Tell what clients could notice."""

    events: Events


@dataclass(slots=True, eq=False)
class Sleep:
    """Wait until something comes in, or until a time (ns) if one is given."""

    until: int | None = None


@dataclass(slots=True, eq=False)
class Repeat:
    """Go through further whole rounds of the loop in which nothing but decoding happens.

    A round receives nothing, launches the next decode step, collects the oldest step in flight and
    commits it. A world may go through any number of them, stopping before the round in which something
    would come in, and no later than with the one whose commit ends a sequence by itself. It may always
    answer that it went through none.

    Attributes:
        batch: the decode batch launched last.
        at_most: rounds in which the same requests decode; may be 0, if `in_all` is not.
        in_all: rounds, those included in which members leave at the length they asked for; not less.
            There are fewer where nobody is left before that, as `departures` says.
        departures: makes the rows of the rounds from which on members have left, soonest first; rows
            without anyone are the last. None where `in_all` is `at_most`.
    """

    batch: Batch
    at_most: int
    in_all: int
    departures: Callable[[], Iterator[DecodeRows]] | None = None


@dataclass(slots=True, eq=False)
class Repeated:
    """The answer to `Repeat`.

    Attributes:
        rounds: how many were gone through.
        ticket: of the batch launched in the last of them, where it is still in flight.
        stops: indices of the rows that end by themselves with the last round's commit, ascending, among
            the rows of the batch committed there.
    """

    rounds: int
    ticket: Any = None
    stops: Sequence[int] = ()


NOT_REPEATED = Repeated(0)

Effect = Receive | Launch | Collect | Report | Sleep | Repeat
Loop = Generator[Effect, Any, None]

RECEIVE = Receive()
