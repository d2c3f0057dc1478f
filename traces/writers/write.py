"""The way out: a workload becomes a trace file of a format that other tools read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from traces.native import write_native
from traces.readers.mooncake import BLOCK_SIZE
from traces.writers.aiperf import aiperf_rows
from traces.writers.files import replacing
from traces.writers.losses import LossError, Losses
from traces.writers.mooncake import mooncake_rows

if TYPE_CHECKING:
    from traces.workload import Workload

_ROWS = {"mooncake": mooncake_rows, "aiperf": aiperf_rows}
WRITERS = {
    "native": "loses nothing",
    "mooncake": "Mooncake JSONL with session_id and delay: times, lengths, prefix hashes, turns",
    "aiperf": "AIPerf mooncake_trace: times, lengths, prefix hashes, turns that hold what is new",
}
"""Formats that can be written, and what they hold."""


def write_trace(
    workload: Workload,
    path: str | Path,
    format: str,  # noqa: A002 - the word a caller looks for
    *,
    lossy: bool = False,
    block_size: int = BLOCK_SIZE,
) -> dict[str, int]:
    """Writes a workload; gzipped or zstd-compressed if the path ends in `.gz` or `.zst`.

    Args:
        workload: the requests.
        path: the file; it appears whole or not at all.
        format: one of `WRITERS`.
        lossy: whether what the format cannot hold is left out and reported, not an error.
        block_size: tokens per prefix hash, for the formats that have hashes; readers of other
            tools take 512 unless told otherwise.

    Returns:
        What was lost, and of how many requests.

    Raises:
        LossError: something would be lost, and `lossy` is not set.
        ValueError: an unknown format, or a block size below 1.
        OSError: the file cannot be written.
    """
    if format not in WRITERS:
        raise ValueError(f"cannot write the format {format!r}; known: {', '.join(WRITERS)}")
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1 token, got {block_size}")
    if format == "native":
        write_native(workload, path)
        return {}
    losses = Losses()
    with replacing(Path(path)) as file:
        for row in _ROWS[format](workload, block_size, losses):
            text = json.dumps(row, separators=(",", ":"), allow_nan=False)
            file.write(text.encode("ascii") + b"\n")
        if losses.counts and not lossy:
            raise LossError(format, losses.counts)
    return losses.counts
