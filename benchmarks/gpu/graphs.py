"""Decode with CUDA graphs and without, and what capturing them takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.gpu.load import burst
from benchmarks.gpu.steps import decode_figures
from runtime.config import as_config
from runtime.stack import Stack

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place


def run(place: Place) -> None:
    """See the module."""
    prompt, output = place.size(512, 16), place.size(96, 16)
    most = place.size(256, 8)
    _note_capture(place, most)
    for batch in (place.size(1, 1), place.size(16, 2), place.size(64, 4), most):
        for graphs in (True, False):
            config = place.config(
                kv=(batch + 1) * (prompt + output + 16),
                policy={"max_running_requests": batch},
                runtime={"cuda_graphs": graphs, "cuda_graph_max_batch": batch},
            )
            work = burst(batch, prompt, output, seed=batch)
            figures = decode_figures(place.steps(work, config), batch)
            place.note(f"{'graphs' if graphs else 'eager'}, {batch}", figures)


def _note_capture(place: Place, most: int) -> None:
    """Seconds to be ready, with all sizes captured and with none."""
    for graphs in (False, True):
        config = place.config(
            kv=most * 64,
            policy={"max_running_requests": most},
            runtime={"cuda_graphs": graphs, "cuda_graph_max_batch": most},
        )
        place.clean()
        loaded = place.loaded
        began = time.perf_counter()
        Stack.build(as_config(config), loaded)
        name = f"seconds to start, {'graphs' if graphs else 'no graphs'}"
        place.note(name, round(time.perf_counter() - began, 2))
