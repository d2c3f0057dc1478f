"""A run of the runtime on disk: its manifest, and how it is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policies.engines.base import departures
from traces.records.writer import RunWriter

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from runtime.recorder import Recorder
    from runtime.stack import Stack
    from runtime.world import World
    from traces.records.run import Run


def open_run(
    out: str | Path | None,
    stack: Stack,
    records: Collection[str],
    *,
    overwrite: bool = False,
    workload: Mapping[str, Any] | None = None,
) -> RunWriter:
    """Begin to record.

    Args:
        out: the run folder; None keeps the run in memory.
        stack: what runs.
        records: of requests, steps, tokens, decisions.
        overwrite: replace the run that `out` holds.
        workload: what is known of where requests come from.

    Raises:
        RecordError: where the run cannot be written.
    """
    manifest = {
        "world": "runtime",
        **stack.describe(),
        "departures": departures(stack.config),
        "workload": dict(workload or {"name": "live"}),
    }
    return RunWriter(out, manifest, records, overwrite=overwrite)


def close_run(writer: RunWriter, recorder: Recorder, world: World, end_ns: int, status: str) -> Run:
    """End a run: what did not end is written as such."""
    counts = recorder.counts(recorder.left_behind()) | {"failed_steps": world.failures}
    return writer.close(
        status,
        itl=recorder.itl_summary(),
        counts=counts,
        device_busy_ns=recorder.device_busy_ns,
        end_ns=end_ns,
    )
