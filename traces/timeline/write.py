"""Writing a timeline: a run's events, merged by time and streamed into one JSON file.

What is in memory at a time are a few thousand steps and the requests that are drawn, so long runs
are written as short ones are. What the records could not tell is said in the file, under
`metadata`, which Perfetto shows on its info page. The same records give the same JSON, byte for
byte; it is a viewer's file, so nothing of it is read back.
"""

from __future__ import annotations

import gzip
import heapq
import json
import math
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING

from traces.timeline import steps, tracks
from traces.timeline.admissions import AdmissionLog
from traces.timeline.events import Window, process_name, thread_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from traces.records.run import Run
    from traces.timeline.events import Event

#: Request tracks drawn unless more are asked for: what one can scroll through.
REQUESTS = 300
_LINES = 4_096  # events written at a time


@dataclass(frozen=True, slots=True)
class Written:
    """What a timeline holds.

    Attributes:
        file: where it is.
        events: how many events it has, names of tracks apart.
        requests: how many requests have a track.
        requests_there: how many requests were there in the window.
        notes: what the records could not tell, or was left out; a sentence each.
    """

    file: Path
    events: int
    requests: int
    requests_there: int
    notes: tuple[str, ...]


def write_timeline(
    run: Run,
    file: Path | str,
    *,
    window_ms: tuple[float, float] | None = None,
    requests: int = REQUESTS,
) -> Written:
    """Write a run as a timeline that ui.perfetto.dev opens; gzipped where the name ends `.gz`.

    Args:
        run: of either world; steps and decisions are drawn where it has them.
        file: a name that ends `.json` or `.json.gz`; what it held is replaced.
        window_ms: from and to (which may be infinite), in milliseconds on the axis of the whole
            timeline, whose 0 is the first arrival, or the host's first work if that was earlier.
        requests: how many requests get a track, the first of the window by arrival.

    Raises:
        ValueError: for a window, a number or a file name that cannot be used.
        RecordError: where the run's tables cannot be read.
        OSError: where the file cannot be written; what it held is then left.
    """
    target = Path(file)
    if not target.name.endswith((".json", ".json.gz")):
        raise ValueError(f"{target}: a timeline is JSON; name the file .json or .json.gz")
    if requests < 0:
        raise ValueError(f"{requests} request tracks: give 0 or more")
    lives = tracks.Lifetimes(run)
    window = _window(run, lives, window_ms)
    there = lives.within(window)
    shown = tracks.read_rows(run, there[:requests])
    notes = _not_told(run, len(shown), len(there))
    stepped = run.has("steps")
    log = None
    if stepped and run.has("decisions") and shown:
        log = AdmissionLog(run, [row["id"] for row in shown])
        retractions = sum(row["retractions"] for row in shown)
        seen = sum(max(len(log.of(row["id"])) - 1, 0) for row in shown)
        if seen < retractions:
            notes.append(
                f"{retractions - seen:,} of {retractions:,} retractions: the requests were not "
                "prefilled again, so the log does not show when"
            )
    step_events = steps.StepEvents(run, window) if stepped else None
    events = heapq.merge(
        *([step_events] if step_events is not None else []),
        tracks.request_events(shown, lives.last, log),
        key=itemgetter(0),
    )
    names = _names(run, len(shown), len(there), stepped=stepped)
    names += [line for place, name in tracks.names_of(shown) for line in thread_name(place, name)]
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.tmp")
    try:
        with temporary.open("wb") as raw, _packed(raw, target) as out:
            count = _stream(out, names, events, window)
            if step_events is not None and step_events.overlaps:
                notes.append(
                    f"by the records {step_events.overlaps:,} host phases or steps began before "
                    "the one ahead of them had ended; they were left out, or begin later here"
                )
            out.write(f'\n],"metadata":{_metadata(run, window, notes)}}}\n'.encode())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Written(target, count, len(shown), len(there), tuple(notes))


def _window(run: Run, lives: tracks.Lifetimes, window_ms: tuple[float, float] | None) -> Window:
    first = steps.first_begin(run) if run.has("steps") else None
    starts = [int(lives.arrival.min())] if len(lives.arrival) else []
    origin = min([*starts, *([] if first is None else [first])], default=0)
    if window_ms is None:
        return Window(origin, origin)
    begin, end = window_ms
    if not (0 <= begin < end):
        raise ValueError(f"window {begin:g}:{end:g} ms: it has to run from 0 or later to later")
    last = None if math.isinf(end) else origin + round(end * 1e6)
    return Window(origin, origin + round(begin * 1e6), last)


def _not_told(run: Run, shown: int, there: int) -> list[str]:
    """What a reader of the timeline has to know that it does not show."""
    notes = []
    if shown < there:
        notes.append(f"of {there:,} requests the first {shown:,} by arrival have a track")
    if run.status != "complete":
        notes.append(f"the run is not complete: {run.status}")
    if not run.has("steps"):
        notes.append("device, host and counters: the run has no step table (--records steps)")
    else:
        notes.append("rounds of the loop that launched nothing: on the host, they are gaps")
        if not run.manifest.get("kv_capacity_tokens"):
            notes.append("KV held: the manifest has no kv_capacity_tokens")
    if not (run.has("steps") and run.has("decisions")):
        notes.append(
            "prefill chunks, and when requests were retracted: the run has no decision log "
            "(--records steps,decisions); prefill lasts from the first batch to the first token"
        )
    else:
        notes.append(
            "when a request was retracted is not recorded; it is drawn at the launch of the first "
            "decode step without it"
        )
    if "tokens" not in run.manifest["records"]:
        notes.append("tokens have no times of their own (--records tokens)")
    return notes


def _names(run: Run, shown: int, there: int, *, stepped: bool) -> list[str]:
    """The events that name processes and threads, in the order they are shown."""
    which = f"first {shown:,} of {there:,} by arrival" if shown < there else f"{there:,}"
    processes = [(tracks.PID, f"requests ({which})")]
    lines = []
    if stepped:
        device = run.manifest.get("hardware", {}).get("device", "device")
        processes = [
            (steps.DEVICE.pid, f"device ({device})" if device != "device" else device),
            (steps.HOST.pid, "host"),
            (steps.COUNTERS.pid, "queue and KV"),
            *processes,
        ]
        lines = [*thread_name(steps.DEVICE, "steps"), *thread_name(steps.HOST, "phases")]
    named = [process_name(pid, name, i) for i, (pid, name) in enumerate(processes)]
    return [line for group in named for line in group] + lines


def _metadata(run: Run, window: Window, notes: Sequence[str]) -> str:
    manifest = run.manifest
    known = {
        "run": run.name,
        "world": manifest.get("world"),
        "status": run.status,
        "workload": (manifest.get("workload") or {}).get("name"),
        "policy": (manifest.get("config") or {}).get("policy"),
        "hardware": manifest.get("hardware"),
        "seed": manifest.get("seed"),
        "time_zero_ns": window.origin,
        "not shown": list(notes),
    }
    told = {key: value for key, value in known.items() if value is not None}
    return json.dumps(told, ensure_ascii=False, sort_keys=True)


def _packed(raw: IO[bytes], target: Path) -> IO[bytes]:
    if target.suffix != ".gz":
        return raw
    # Neither name nor time in the file, so that it depends on the records alone.
    return gzip.GzipFile("", "wb", compresslevel=5, fileobj=raw, mtime=0)  # type: ignore[return-value]


def _stream(out: IO[bytes], names: list[str], events: Iterator[Event], window: Window) -> int:
    """Write names and events, a line each; returns how many events were in the window."""
    out.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
    out.write(",\n".join(names).encode())
    count, lines = 0, []
    for event in events:
        text = window.text(event)
        if text is not None:
            lines.append(text)
            if len(lines) >= _LINES:
                count += _flush(out, lines)
    return count + _flush(out, lines)


def _flush(out: IO[bytes], lines: list[str]) -> int:
    out.write("".join(f",\n{line}" for line in lines).encode())
    count = len(lines)
    lines.clear()
    return count
