"""The host's cost of each phase, fitted to recorded steps as `simulator.host` charges it.

Each phase is linear in what drives it. Three things are put where the model has a place for them: what a
launch costs beyond its least goes to preparing, which happens just before; the time a waiting host takes to
notice a step's end goes to collecting; and time between phases that belongs to none goes to receiving.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from simulator.calibration.robust import fit_mean
from simulator.calibration.steps import PHASES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from simulator.calibration.steps import Steps

    Int64s = NDArray[np.int64]

LEAST_SEEN: Final = 20
"""Steps from which the time between phases, or that of waking, is taken."""


def fit_host(steps: Steps) -> dict[str, int]:
    """Coefficients of `HostOptions` in whole nanoseconds, fitted to steps of any kind."""
    one = np.ones(len(steps), dtype=np.int64)
    prefill, decode = steps.prefill_requests, steps.decode_requests
    rows, new = prefill + decode, steps.prefill_tokens
    batch = {
        "fixed": one,
        "with_prefill": (prefill > 0).astype(np.int64),
        "per_prefill_request": prefill,
        "per_prefill_token": new,
        "per_decode_request": decode,
    }
    receive = _fit(steps, "receive", {"fixed": one, "per_arrival": steps.arrivals})
    schedule = _fit(
        steps,
        "schedule",
        {
            "fixed": one,
            "per_waiting": steps.waiting,
            "per_running": steps.running,
            "per_prefill_request": prefill,
        },
    )
    prepare, launch = _fit(steps, "prepare", batch), _fit(steps, "launch", batch)
    collect = _fit(steps, "collect", {"fixed": one, "per_row": rows})
    commit = _fit(steps, "commit", {"fixed": one, "per_row": rows, "per_finished": steps.finished})
    receive["fixed"] += _usual(steps.between_ns)
    collect["fixed"] += _usual(steps.wake_ns)
    for name in batch:
        if name != "fixed":
            prepare[name] += launch[name]
    launch = {"fixed": launch["fixed"]}
    phases = (receive, schedule, prepare, launch, collect, commit)
    return {
        f"{phase}_{name}_ns": round(ns)
        for phase, found in zip(PHASES, phases, strict=True)
        for name, ns in found.items()
    }


def _fit(steps: Steps, phase: str, drivers: dict[str, Int64s]) -> dict[str, float]:
    times = steps.host_ns[PHASES.index(phase)].astype(np.float64)
    columns = np.stack(list(drivers.values()), axis=1).astype(np.float64)
    theta = fit_mean(columns, times, (steps.prefill_requests > 0).astype(np.int64)).theta
    return dict(zip(drivers, theta.tolist(), strict=True))


def _usual(times: Int64s) -> float:
    """The median of those that were seen, if they are enough to speak of."""
    seen = times[times >= 0]
    return float(np.median(seen)) if len(seen) >= LEAST_SEEN else 0.0
