"""A workload from whatever it is called by: a workload, the path of a trace, or a preset's name."""

from __future__ import annotations

from pathlib import Path

from traces.workload import Workload


def as_workload(
    workload: Workload | str | Path, seed: int, *, limit: int | None = None, speedup: float = 1.0
) -> Workload:
    """The workload that is meant.

    Args:
        workload: a workload, the path of a trace, or the name of a generator's preset.
        seed: of what is drawn.
        limit: only the first so many requests.
        speedup: arrivals come so many times faster.

    Raises:
        TraceError: for a trace that cannot be read.
    """
    if not isinstance(workload, Workload):
        from traces.generate import generate, presets
        from traces.readers.read import read_trace

        if str(workload) in presets() and not Path(workload).exists():
            workload = generate(str(workload), n=limit, seed=seed)
        else:
            workload = read_trace(workload, limit=limit, seed=seed)
    if limit is not None:
        workload = workload.limit(limit)
    return workload if speedup == 1.0 else workload.speedup(speedup)
