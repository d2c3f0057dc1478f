"""AIPerf's `profile_export.jsonl`: one JSON object a request, with `metadata` and `metrics`.

Source: https://github.com/ai-dynamo/aiperf, docs/tutorials/working-with-profile-exports.md (Apache-2.0).
`request_start_ns` is when the client sent it, `request_end_ns` when the last response came, both of the
wall clock; metrics are values with a unit. Requests that failed or were cancelled have an `error` and are
left out, as are those of a warm-up phase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.errors import RowError, TraceError, shown
from traces.readers.fields import (
    UNITS,
    Row,
    integer,
    json_row,
    length,
    name_of,
    required,
    time_ns,
)
from traces.readers.lines import TraceLines
from traces.real_runs.base import RealRequest, RealRun
from traces.real_runs.workload import workload_of

if TYPE_CHECKING:
    from pathlib import Path

PHASE = "profiling"


def is_aiperf(keys: frozenset[str]) -> bool:
    """Whether a line with these keys is such a record."""
    return {"metadata", "metrics"} <= keys


def read_aiperf(path: Path, workload: str | Path | None = None) -> RealRun:
    """One export.

    Args:
        path: the file.
        workload: what was sent, if at hand, in the order of its requests' starts.

    Raises:
        TraceError: names the file, the line and the key.
    """
    source = TraceLines(path)
    found = [row for _, row in source.rows(iter(source), _row)]
    profiled = [row for row in found if row is not None]
    good = sorted((row for row in profiled if row[1] is not None), key=lambda row: row[0])
    if not good:
        raise TraceError(path, "no request that was answered", "at least one")
    first = good[0][0]
    requests = []
    for start, record in good:
        assert record is not None
        name, prompt, output, ttft, e2e, itl = record
        requests.append(RealRequest(name, prompt, output, start - first, ttft, e2e, itl))
    if len({request.id for request in requests}) < len(requests):
        raise TraceError(path, "two requests of one name", "each with its own x_request_id")
    work, notes = workload_of(requests, path.stem, workload, path)
    return RealRun(
        name=path.name.removesuffix(".gz").rsplit(".", 1)[0],
        source="AIPerf",
        path=path,
        requests=tuple(requests),
        workload=work,
        failed=len(profiled) - len(requests),
        notes=(*notes, "the client's clock: network and HTTP are in the latencies"),
    )


_Record = tuple[str, int, int, int | None, int, tuple[int, ...] | None]


def _row(line: str) -> tuple[int, _Record | None] | None:
    """When a request was sent, and its record if it was answered; None outside the profiling phase."""
    row = json_row(line)
    meta = _object(row, "metadata")
    if meta.get("benchmark_phase", PHASE) != PHASE:
        return None
    start = integer(required(meta, "request_start_ns", "nanoseconds"), "metadata.request_start_ns")
    if row.get("error") is not None or meta.get("was_cancelled") is True:
        return start, None  # its metrics may be null
    metrics = _object(row, "metrics")
    end = integer(required(meta, "request_end_ns", "nanoseconds"), "metadata.request_end_ns")
    given = meta.get("x_request_id")
    if given is None:
        given = required(meta, "session_num", "a number, or x_request_id")
    name = name_of(given, "metadata.x_request_id")
    prompt = length(_value(metrics, "input_sequence_length"), "metrics.input_sequence_length")
    output = length(_value(metrics, "output_sequence_length"), "metrics.output_sequence_length")
    if end < start:
        raise RowError(
            f"{end}, before request_start_ns", f"{start} or later", field="metadata.request_end_ns"
        )
    ttft = _time(metrics, "time_to_first_token") if "time_to_first_token" in metrics else None
    e2e = _time(metrics, "request_latency") if "request_latency" in metrics else end - start
    return start, (name, prompt, output, ttft, e2e, _gaps(metrics))


def _object(row: Row, name: str) -> Row:
    value = required(row, name, "an object")
    if not isinstance(value, dict):
        raise RowError(shown(value), "an object", field=name)
    return value


def _value(metrics: Row, name: str) -> object:
    return required(_object(metrics, name), "value", "a value with its unit")


def _unit(metrics: Row, name: str) -> str:
    unit = _object(metrics, name).get("unit")
    if not isinstance(unit, str) or unit not in UNITS:
        raise RowError(shown(unit), f"one of {', '.join(UNITS)}", field=f"metrics.{name}.unit")
    return unit


def _time(metrics: Row, name: str) -> int:
    return time_ns(_value(metrics, name), f"metrics.{name}", _unit(metrics, name))


def _gaps(metrics: Row) -> tuple[int, ...] | None:
    name = "inter_chunk_latency"
    if name not in metrics:
        return None
    unit, values = _unit(metrics, name), _value(metrics, name)
    if not isinstance(values, list):
        raise RowError(shown(values), "a list of times", field=f"metrics.{name}")
    return tuple(time_ns(value, f"metrics.{name}", unit) for value in values)
