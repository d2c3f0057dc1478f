"""The trace event format: slices, instants, counters and names as Perfetto and Chrome read them.

Times come in as nanoseconds and go out as microseconds with three decimals, so nothing is rounded.
Events are held as text but for their times, which a window may still cut. Knows no run.

The format is the one of Google's "Trace Event Format" document; of what Perfetto makes of it, its
`json_trace_parser.cc` is the authority: slices of a thread nest or are disjoint, a counter's
arguments are its series, `metadata` is shown on the info page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Event(NamedTuple):
    """An event: when, in nanoseconds, and the rest as JSON text before and after the times."""

    start: int
    end: int | None  # None for what has no length
    head: str
    rest: str


class Track(NamedTuple):
    """Where events are drawn. Thread ids are unique over all processes, as they are in a kernel."""

    pid: int
    tid: int

    def head(self, phase: str) -> str:
        """The first part of an event's text: its phase and place."""
        return f'{{"ph":"{phase}","pid":{self.pid},"tid":{self.tid}'


def named(name: str, args: str = "") -> str:
    """The last part of an event's text: its name (plain), and arguments that are JSON already."""
    return f',"name":"{name}","args":{{{args}}}'


def as_args(values: Mapping[str, object]) -> str:
    """Arguments as the inside of a JSON object; None is left out."""
    known = {key: value for key, value in values.items() if value is not None}
    return json.dumps(known, ensure_ascii=False, separators=(",", ":"))[1:-1]


def microseconds(time_ns: int) -> str:
    """Nanoseconds, not negative, as microseconds with three decimals."""
    whole, thousandths = divmod(time_ns, 1000)
    return f"{whole}.{thousandths:03d}"


@dataclass(frozen=True, slots=True)
class Window:
    """What is shown: from `begin` to `end`, both on the run's clock in nanoseconds.

    Attributes:
        origin: the time that is shown as 0; not after `begin`.
        end: None for all there is.
    """

    origin: int
    begin: int
    end: int | None = None

    def text(self, event: Event) -> str | None:
        """The event as JSON, cut at the window's edges; None where it lies outside."""
        start, end, head, rest = event
        last = self.end
        if last is not None and start > last:
            return None
        if end is None:
            if start < self.begin:
                return None
            return f'{head},"ts":{microseconds(start - self.origin)}{rest}}}'
        if end < self.begin:
            return None
        first = max(start, self.begin)
        length = (end if last is None else min(end, last)) - first
        if length == 0 and end > start:
            return None  # it only touches the edge
        at, lasting = microseconds(first - self.origin), microseconds(length)
        return f'{head},"ts":{at},"dur":{lasting}{rest}}}'


def process_name(pid: int, name: str, position: int) -> list[str]:
    """The events that name a process and put it in its place."""
    return [
        _metadata(pid, pid, "process_name", {"name": name}),
        _metadata(pid, pid, "process_sort_index", {"sort_index": position}),
    ]


def thread_name(track: Track, name: str) -> list[str]:
    """The events that name a thread; threads are shown in the order of their ids."""
    return [
        _metadata(*track, "thread_name", {"name": name}),
        _metadata(*track, "thread_sort_index", {"sort_index": track.tid}),
    ]


def _metadata(pid: int, tid: int, name: str, args: Mapping[str, object]) -> str:
    return f'{Track(pid, tid).head("M")},"ts":0{named(name, as_args(args))}}}'
