"""How far a calibration is from steps it has not seen: every fifth, a whole run, the largest work.

Each time the rest is fitted and the steps held out are predicted. A step's error is relative to what it
took; outliers are told apart from it, but not from the time that all took together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from simulator.calibration.device import fit_device
from simulator.calibration.profile import Errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from simulator.calibration.profile import Curve, StepCost
    from simulator.calibration.steps import Steps

    Floats = NDArray[np.float64]

LARGEST: Final = 0.1
"""Share of the steps of a kind that count as its largest work."""
LEAST_LEFT: Final = 30
"""Steps to fit to, at least, when others are held out."""


def predict(cost: StepCost, steps: Steps) -> Floats:
    """float64, shape (steps,): nanoseconds of each step, what `CalibratedLatency` rounds."""
    ns = cost.fixed_ns + _at(cost.tokens, steps.tokens)
    ns += steps.decode_requests * cost.decode_request_ns + steps.sampled * cost.sampled_ns
    ns += _at(cost.decode_kv_tokens, steps.decode_kv_tokens)
    ns += _at(cost.prefill_pairs, steps.prefill_pairs)
    ns += steps.cached_tokens * cost.cached_token_ns
    ns += steps.prefill_requests * cost.prefill_request_ns
    ns += (steps.prefill_requests > 0) * cost.prefill_fixed_ns
    return ns


def hold_out(
    steps: Steps,
    kept: NDArray[np.bool_],
    run_of: NDArray[np.int64],
    names: Sequence[str],
    every: int,
) -> dict[str, Errors]:
    """Errors by what was held out.

    Args:
        steps: all that are fitted to, none empty.
        kept: bool, shape (steps,): false for outliers of the fit to all.
        run_of: int64, shape (steps,): which run each is from.
        names: of the runs.
        every: of how many steps one is held out, in the order they were recorded.
    """
    order = np.arange(len(steps))
    held = {f"every {every}th step": order % every == every - 1}
    if len(names) > 1:
        held |= {f"run {name}": run_of == i for i, name in enumerate(names)}
    work = predict(fit_device(steps).cost, steps)
    held["the largest work"] = _largest(work, steps.mode)
    found = {}
    for name, out in held.items():
        if (~out).sum() >= LEAST_LEFT and out.any():
            cost = fit_device(steps[~out]).cost
            found[name] = errors_of(predict(cost, steps[out]), steps.duration_ns[out], kept[out])
    return found


def errors_of(predicted: Floats, taken: NDArray[np.int64], kept: NDArray[np.bool_]) -> Errors:
    """Errors of predictions of steps that took so long; `kept` is false for outliers."""
    off = np.abs(predicted / np.maximum(taken, 1) - 1)[kept]
    if not len(off):
        off = np.zeros(1)
    return Errors(
        steps=len(taken),
        median=_short(np.median(off)),
        mean=_short(off.mean()),
        p95=_short(np.quantile(off, 0.95)),
        total=_short(predicted.sum() / max(int(taken.sum()), 1) - 1),
    )


def _largest(work: Floats, mode: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The steps of each kind that are the most work."""
    found = np.zeros(len(work), dtype=bool)
    for kind in np.unique(mode):
        mine = np.flatnonzero(mode == kind)
        most = int(LARGEST * len(mine))
        if most:
            found[mine[np.argsort(work[mine], kind="stable")[-most:]]] = True
    return found


def _at(curve: Curve, x: NDArray[np.int64]) -> Floats:
    beyond = np.maximum(x - curve.knots[-1], 0.0) * curve.slope_ns
    return np.asarray(np.interp(x, curve.knots, curve.ns) + beyond)


def _short(share: float | np.floating) -> float:
    return round(float(share), 4)
