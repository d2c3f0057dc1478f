"""A track per request: queued, prefill with its chunks, decode, retracted.

What a run recorded decides how much is known. The requests' own table gives the three spans; token
times add an instant per token; the decision log adds chunks and retractions. A run may have more
requests than anyone can look at, so the first so many of the window are drawn, and it is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from traces.timeline.events import Event, Track, as_args, named
from traces.timeline.rows import batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from traces.records.run import Run
    from traces.timeline.admissions import Admission, AdmissionLog
    from traces.timeline.events import Window

PID = 4
_FIRST_TID = 1_000

#: What is said of a request beside its spans.
_TOLD = (
    *("id", "session", "tenant", "priority", "prompt_tokens", "cached_tokens", "output_tokens"),
    *("max_new_tokens", "retractions", "finish_reason", "reason"),
    *("arrival_ns", "first_scheduled_ns", "first_token_ns", "finish_ns"),
)


class Lifetimes:
    """When each request of a run was there: two integers a request, in the order of the table.

    Attributes:
        arrival: (n,) when each arrived, in nanoseconds.
        end: (n,) when each ended; the run's end for those that had not.
    """

    def __init__(self, run: Run) -> None:
        arrivals, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        unfinished = np.iinfo(np.int64).max
        for batch in batches(run, "requests", ("arrival_ns", "finish_ns")):
            arrivals.append(batch.column("arrival_ns").to_numpy())
            finish = batch.column("finish_ns").fill_null(unfinished)
            ends.append(finish.to_numpy().astype(np.int64, copy=False))
        self.arrival: NDArray[np.int64] = np.concatenate(arrivals)
        end: NDArray[np.int64] = np.concatenate(ends)
        known = end[end != unfinished]
        last = [int(a.max()) for a in (self.arrival, known) if len(a)]
        self.last = max([int(run.manifest.get("end_ns") or 0), *last])
        self.end: NDArray[np.int64] = np.where(end == unfinished, self.last, end)

    def within(self, window: Window) -> NDArray[np.int64]:
        """The rows of the requests that were there in the window, by arrival."""
        there = self.end >= window.begin
        if window.end is not None:
            there &= self.arrival <= window.end
        rows: NDArray[np.int64] = np.flatnonzero(there)
        return rows[np.argsort(self.arrival[rows], kind="stable")]


def read_rows(run: Run, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """These rows of the requests' table, in this order."""
    columns = list(_TOLD)
    if "tokens" in run.manifest["records"]:
        columns.append("token_times_ns")
    place = {row: i for i, row in enumerate(rows.tolist())}
    found: list[dict[str, Any]] = [{} for _ in place]
    first = 0
    for batch in batches(run, "requests", columns):
        mine = rows[(rows >= first) & (rows < first + batch.num_rows)]
        for row, values in zip(mine.tolist(), batch.take(mine - first).to_pylist(), strict=True):
            found[place[row]] = values
        first += batch.num_rows
    return found


def track(i: int) -> Track:
    """The track of the request that is number `i` of those shown."""
    return Track(PID, _FIRST_TID + i)


def request_events(
    requests: Sequence[dict[str, Any]], last_ns: int, log: AdmissionLog | None
) -> list[Event]:
    """The events of all requests that are shown, by start.

    Args:
        requests: rows as `read_rows` gives them.
        last_ns: when those end that have no end of their own.
        log: their admissions, where the run has a decision log.
    """
    events: list[Event] = []
    for i, row in enumerate(requests):
        events += _Drawn(row, track(i), last_ns).all(log)
    events.sort(key=lambda event: event.start)
    return events


class _Drawn:
    """The events of one request; each span is cut to where the one before it ended."""

    def __init__(self, row: dict[str, Any], place: Track, last_ns: int) -> None:
        self._row = row
        self._slice, self._instant = place.head("X"), place.head("i")
        self._end = max(
            last_ns if row["finish_ns"] is None else row["finish_ns"], row["arrival_ns"]
        )
        self._now = row["arrival_ns"]
        self._events: list[Event] = []

    def all(self, log: AdmissionLog | None) -> list[Event]:
        row = self._row
        name = "request" if row["finish_ns"] is not None else "request, unfinished"
        told = as_args({key: row[key] for key in _TOLD})
        self._events.append(Event(self._now, self._end, self._slice, named(name, told)))
        admissions = [] if log is None else log.of(row["id"])
        if log is not None and admissions:
            self._by_log(admissions, log)
        else:
            self._by_row()
        for k, time in enumerate(row.get("token_times_ns") or ()):
            rest = f',"s":"t"{named("token", as_args({"number": k + 1}))}'
            self._events.append(Event(time, None, self._instant, rest))
        return self._events

    def _by_row(self) -> None:
        """The spans that the request's own row gives."""
        row = self._row
        waited = "refused" if row["finish_reason"] == "refused" else "queued"
        self._span(waited, row["first_scheduled_ns"])
        if row["first_scheduled_ns"] is None:
            return
        self._span("prefill", row["first_token_ns"])
        if row["first_token_ns"] is not None:
            times = row["retractions"]
            self._span("decode" if not times else f"decode, retracted {times} times", None)

    def _by_log(self, admissions: Sequence[Admission], log: AdmissionLog) -> None:
        """The spans of each stay in the running batch, with chunks, and the waits between."""
        for k, stay in enumerate(admissions):
            times = [(chunk, log.times(chunk.iteration)) for chunk in stay.chunks]
            first, last = times[0][1], times[-1][1]
            self._span("retracted" if k else "queued", None if first is None else first.launch)
            gone = self._end if stay is admissions[-1] else self._gone(log, stay, admissions[k + 1])
            ended = None
            if stay.sampled and last is not None:
                ended = last.commit
            begun = len(self._events)
            self._span("prefill", ended if ended is not None else gone)
            if len(self._events) > begun:
                prefill = self._events[begun]
                self._chunks(prefill, [(c, t.start, t.end) for c, t in times if t is not None])
            if ended is not None:
                self._span("decode", gone, as_args({"decode_steps": stay.decodes}))

    def _gone(self, log: AdmissionLog, stay: Admission, following: Admission) -> int:
        """When a stay had ended at the latest."""
        again = log.times(following.chunks[0].iteration)
        known = [log.gone_by(stay), None if again is None else again.launch]
        return min((time for time in known if time is not None), default=self._end)

    def _span(self, name: str, until: int | None, args: str = "") -> None:
        """Add a span from where the last one ended, up to a time or to the request's end."""
        end = self._end if until is None else min(max(until, self._now), self._end)
        if end > self._now or name == "refused":
            self._events.append(Event(self._now, end, self._slice, named(name, args)))
        self._now = end

    def _chunks(self, prefill: Event, chunks: Sequence[tuple[Any, int, int]]) -> None:
        assert prefill.end is not None
        for chunk, start, end in chunks:
            first, last = max(start, prefill.start), min(end, prefill.end)
            if last > first:
                args = as_args(chunk._asdict())
                self._events.append(Event(first, last, self._slice, named("chunk", args)))


def names_of(requests: Sequence[dict[str, Any]]) -> Iterator[tuple[Track, str]]:
    """Each track with its name: the request's, and whose it is."""
    for i, row in enumerate(requests):
        tenant = row["tenant"]
        yield track(i), row["id"] if tenant is None else f"{row['id']} ({tenant})"
