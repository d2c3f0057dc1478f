"""Serial against overlapped: how long the device waits between decode steps, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.gpu.load import burst
from benchmarks.gpu.steps import decode_figures

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place


def run(place: Place) -> None:
    """See the module."""
    prompt, output = place.size(512, 16), place.size(128, 16)
    for batch in (place.size(1, 1), place.size(64, 4), place.size(256, 8)):
        for overlap in ("overlapped", "serial"):
            config = place.config(
                kv=(batch + 1) * (prompt + output + 16),
                policy={"overlap": overlap, "max_running_requests": batch},
                runtime={"cuda_graph_max_batch": batch},
            )
            work = burst(batch, prompt, output, seed=batch)
            figures = decode_figures(place.steps(work, config), batch)
            place.note(f"{overlap}, {batch}", figures)
