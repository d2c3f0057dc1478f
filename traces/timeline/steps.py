"""What the step table puts on a timeline: the device, the host's phases, and the counters.

A row says when a step was launched, ran and was committed, and how long each phase of the host's
work for it took. Where the phases lie follows from the order of the loop: receive, schedule,
prepare and launch end, back to back, with the launch; collect and commit end with the commit. What
no row tells are rounds of the loop that launched nothing, so some of the host's gaps are work.
"""

from __future__ import annotations

import re
from operator import itemgetter
from typing import TYPE_CHECKING

from traces.timeline.events import Event, Track, named
from traces.timeline.rows import row_tuples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.records.run import Run
    from traces.timeline.events import Window

DEVICE, HOST, COUNTERS = Track(1, 1), Track(2, 2), Track(3, 3)
BEFORE = ("receive", "schedule", "prepare", "launch")
AFTER = ("collect", "commit")
COLUMNS = (
    "iteration",
    "mode",
    "launch_ns",
    "start_ns",
    "end_ns",
    "commit_ns",
    *(f"host_{phase}_ns" for phase in (*BEFORE, *AFTER)),
    "prefill_requests",
    "prefill_tokens",
    "cached_tokens",
    "decode_requests",
    "kv_tokens_read",
    "waiting",
    "running",
    "free_tokens",
    "evictable_tokens",
)
_ON_DEVICE, _ON_HOST, _COUNT = DEVICE.head("X"), HOST.head("X"), COUNTERS.head("C")
_ARROW = re.compile(r',"bind_id":(?P<id>\d+)(,"flow_(in|out)":true)+')
_IDLE = named("requests", '"waiting":0,"running":0')


class StepEvents:
    """The events of a run's steps within a window, in the order of their starts.

    Attributes:
        overlaps: host phases left out because, by the records, another had not ended yet; and
            steps whose start was moved to the end of the one before. None in a sound run.
    """

    def __init__(self, run: Run, window: Window) -> None:
        self.overlaps = 0
        self._run = run
        self._window = window
        self._capacity: int | None = run.manifest.get("kv_capacity_tokens")
        self._device_free = 0
        self._last: tuple[int, int] | None = None  # launch and commit of the row before

    def __iter__(self) -> Iterator[Event]:
        host_free = 0
        loose: set[str] = set()  # arrows whose beginning was left out
        for event in _in_order(self._batches()):
            arrow = _ARROW.match(event.rest)
            if event.head is _ON_HOST:
                assert event.end is not None
                if event.start < host_free:
                    self.overlaps += 1
                    if arrow:
                        loose.add(arrow["id"])
                    continue
                host_free = event.end
            if arrow and arrow["id"] in loose:
                yield event._replace(rest=event.rest[arrow.end() :])
            else:
                yield event

    def _batches(self) -> Iterator[list[Event]]:
        """The events of the rows, a batch at a time; each batch in no order."""
        end = self._window.end
        for rows in row_tuples(self._run, "steps", COLUMNS):
            events: list[Event] = []
            for row in rows:
                self._step(row, events)  # type: ignore[arg-type]
            yield events
            if end is not None and self._last is not None and self._last[0] > end:
                return
        if self._last is not None:
            yield [Event(self._last[1], None, _COUNT, _IDLE)]

    def _step(self, row: tuple[int, ...], events: list[Event]) -> None:
        iteration, mode, launch, start, end, commit = row[:6]
        before, after = row[6:10], row[10:12]
        prefills, new, cached, decodes, read, waiting, running, free, evictable = row[12:]
        begin = launch - sum(before)
        if self._last is not None and begin - self._last[1] > max(self._last[1] - self._last[0], 1):
            # No step is recorded while nothing runs: a gap longer than a step is idling.
            events.append(Event(self._last[1], None, _COUNT, _IDLE))
        self._last = launch, commit
        if commit < self._window.begin:
            self._device_free = end
            return
        of = f'"iteration":{iteration}'
        # An arrow leads from the launch to the step and on, if the launch is on the timeline.
        arrow = before[3] > 0 and launch > self._window.begin
        _phases(events, begin, BEFORE, before, of, f'"bind_id":{iteration},"flow_out":true', arrow)
        _phases(
            events,
            commit - after[0] - after[1],
            AFTER,
            after,
            of,
            f'"bind_id":{iteration},"flow_in":true',
            arrow,
        )
        if start < self._device_free:
            self.overlaps += 1
            start, end = self._device_free, max(end, self._device_free)
        self._device_free = end
        flow = f',"bind_id":{iteration},"flow_in":true,"flow_out":true' if arrow else ""
        args = (
            f'{of},"prefill_requests":{prefills},"prefill_tokens":{new},"cached_tokens":{cached},'
            f'"decode_requests":{decodes},"kv_tokens_read":{read}'
        )
        events.append(Event(start, end, _ON_DEVICE, f"{flow}{named(str(mode), args)}"))
        kv = f'"free":{free},"cached":{evictable}'
        if self._capacity:
            kv = f'{kv},"held":{self._capacity - free - evictable}'
        queue = f'"waiting":{waiting},"running":{running}'
        events.append(Event(launch, None, _COUNT, named("requests", queue)))
        events.append(Event(launch, None, _COUNT, named("KV tokens", kv)))


def _phases(
    events: list[Event],
    begin: int,
    names: tuple[str, ...],
    lengths: tuple[int, ...],
    args: str,
    flow: str,
    arrow: bool,
) -> None:
    """Add the phases that took any time, back to back; the arrow is tied to launch and collect."""
    for name, length in zip(names, lengths, strict=True):
        if length > 0:
            tied = arrow and name in {"launch", "collect"}
            rest = f",{flow}{named(name, args)}" if tied else named(name, args)
            events.append(Event(begin, begin + length, _ON_HOST, rest))
            begin += length


def _in_order(batches: Iterator[list[Event]]) -> Iterator[Event]:
    """Events by start. One batch is held back, since a row's events reach past the next row's."""
    start = itemgetter(0)
    held: list[Event] = []
    for batch in batches:
        if not batch:
            continue
        batch.sort(key=start)
        horizon = batch[0].start
        held.sort(key=start)
        ready = next((i for i, event in enumerate(held) if event.start >= horizon), len(held))
        yield from held[:ready]
        held = held[ready:] + batch
    held.sort(key=start)
    yield from held


def first_begin(run: Run) -> int | None:
    """When the host began to work on the first step, in nanoseconds; None where there is none."""
    for rows in row_tuples(run, "steps", COLUMNS):
        if rows:
            row: tuple[int, ...] = rows[0]  # type: ignore[assignment]
            return row[2] - sum(row[6:10])
    return None
