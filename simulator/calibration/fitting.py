"""Calibrate: runs in, a profile out, with what can be said for and against it.

Runs have to be of one model on one device, run the same way. What their records cannot tell (one batch
size only, no step with prefill, rows' own lengths) is written into the profile as an approximation, and
from there into the manifest of every run that is simulated with it; so is a fit that is far off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from simulator.calibration.device import fit_device
from simulator.calibration.holdout import errors_of, hold_out, predict
from simulator.calibration.host import fit_host
from simulator.calibration.profile import DRIVERS, CalibratedProfile, LeftOut
from simulator.calibration.robust import LEAST_RATIO, SPREADS
from simulator.calibration.steps import MODES, CalibrationError, Steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from simulator.calibration.profile import Errors
    from traces.records.run import Run

LEAST_STEPS: Final = 50
MOST_STEPS: Final = 8_000
"""More steps are thinned to so many: a fit does not get better, only slower."""
LARGE_ERROR: Final = 0.2
"""The median error of a step, in the fit or held out, above which a calibration is warned of: twice what
latencies may be off end to end (10 %, docs/fidelity.md). On a quiet machine it is 2 to 3 %
(benchmarks/results/own_runtime_cpu.json)."""
TRAITS: Final = (
    "model",
    "device",
    "world",
    "attention backend",
    "dtype",
    "use of CUDA graphs",
    "clock",
)
"""What runs have to share."""


class Calibration(NamedTuple):
    """A profile, and what it was made of, for plots.

    Attributes:
        profile: the result.
        steps: that it was fitted to.
        kept: bool, shape (steps,): false for outliers.
        predicted_ns: float64, shape (steps,): what the profile says of each.
        warning: that it fits badly, and what helps; also the first of the profile's approximations.
    """

    profile: CalibratedProfile
    steps: Steps
    kept: NDArray[np.bool_]
    predicted_ns: NDArray[np.float64]
    warning: str | None = None


def calibrate(runs: Sequence[Run], *, every: int = 5) -> Calibration:
    """Fit latency and host to the steps of runs.

    Args:
        runs: one or several, of one model on one device.
        every: of how many steps one is held out to know the error.

    Raises:
        CalibrationError: where runs do not belong together, one is given twice, or they have too few
            steps, or impossible ones.
        RecordError: where a run has no step table, or that cannot be read.
    """
    if not runs:
        raise CalibrationError("no run to calibrate from")
    model, device = _what_they_share(runs)
    names = _names(runs)
    _check_each_once(runs, names)
    parts = [Steps.of(run) for run in runs]
    _check_durations(parts, names)
    all_steps = Steps.join(parts)
    from_run = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    filled = all_steps.mode >= 0
    if filled.sum() < LEAST_STEPS:
        raise CalibrationError(
            f"{', '.join(names)}: {filled.sum()} steps with a batch in all; at least {LEAST_STEPS} are "
            "needed, better 500 with batches of many sizes: record a longer run"
        )
    thin = -(-int(filled.sum()) // MOST_STEPS)
    steps, run_of = all_steps[filled][::thin], from_run[filled][::thin]
    fit = fit_device(steps)
    predicted = predict(fit.cost, steps)
    errors = {"in the fit": errors_of(predicted, steps.duration_ns, fit.kept)}
    errors |= hold_out(steps, fit.kept, run_of, names, every)
    modes = tuple(mode for i, mode in enumerate(MODES) if (steps.mode == i).any())
    told = _approximations(steps, modes, thin, runs)
    warning = _warning(errors, _clock(runs[0]))
    if warning is not None:
        told = (warning, *told)
    profile = CalibratedProfile(
        model=model,
        device=device,
        latency=fit.cost,
        ranges={name: _range(getattr(steps, name)) for name in DRIVERS},
        modes=modes,
        host=fit_host(all_steps),
        steps=len(steps),
        errors=errors,
        left_out=_left_out(steps, fit.kept, predicted, [names[i] for i in run_of]),
        approximations=told,
        provenance={"runs": [_provenance(run) for run in runs]},
    )
    return Calibration(profile, steps, fit.kept, predicted, warning)


def _names(runs: Sequence[Run]) -> list[str]:
    """What to call the runs, no two alike."""
    names = [run.name for run in runs]
    return [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _check_each_once(runs: Sequence[Run], names: Sequence[str]) -> None:
    """A run that counts twice is fitted to twice, and foretells itself when it is held out."""
    tables = [run.arrow("steps") for run in runs]
    for i, table in enumerate(tables):
        for j, other in enumerate(tables[:i]):
            if len(table) and table.equals(other):
                one, two = (runs[k].path or names[k] for k in (j, i))
                raise CalibrationError(
                    f"runs {one} and {two} have the same steps, to the nanosecond: give each run once"
                )


def _check_durations(parts: Sequence[Steps], names: Sequence[str]) -> None:
    for name, steps in zip(names, parts, strict=True):
        idle = (steps.mode >= 0) & (steps.duration_ns <= 0)
        if idle.any():
            raise CalibrationError(
                f"run {name}: {idle.sum()} steps with a batch took no time on the device, the first of "
                f"them iteration {steps.iteration[idle.argmax()]}; such records cannot be calibrated from"
            )


def _what_they_share(runs: Sequence[Run]) -> tuple[str, str]:
    """The runs' model and device."""
    first = runs[0]
    for run in runs:
        hardware = run.manifest.get("hardware", {})
        if not hardware.get("model") or not hardware.get("device"):
            raise CalibrationError(
                f"run {run.name}: its manifest does not say which model ran on which device "
                "(hardware.model, hardware.device)"
            )
        for what, one, other in zip(TRAITS, _traits(first), _traits(run), strict=True):
            if one != other:
                raise CalibrationError(
                    f"runs {first.name} and {run.name} differ in {what}: {one} and {other}; "
                    "calibrate each by itself"
                )
    hardware = first.manifest["hardware"]
    return str(hardware["model"]), str(hardware["device"])


def _traits(run: Run) -> tuple[Any, ...]:
    hardware, resolved = run.manifest["hardware"], run.manifest.get("resolved", {})
    return (
        hardware.get("model"),
        hardware.get("device"),
        run.manifest.get("world"),
        resolved.get("attention", {}).get("name"),
        resolved.get("dtype"),
        bool(resolved.get("cuda_graphs")),
        _clock(run),
    )


def _clock(run: Run) -> str:
    """What times of a run are counted on; a simulated run has no such choice."""
    config = run.manifest.get("config") or {}
    return str((config.get("runtime") or {}).get("clock", "wall"))


def _range(values: NDArray[np.int64]) -> tuple[int, int]:
    """The least and the most of those that are not 0."""
    some = values[values > 0]
    return (int(some.min()), int(some.max())) if len(some) else (0, 0)


def _left_out(
    steps: Steps, kept: NDArray[np.bool_], predicted: NDArray[np.float64], names: Sequence[str]
) -> LeftOut:
    out = np.flatnonzero(~kept)
    if not len(out):
        return LeftOut()
    slowest = out[np.argsort(-steps.duration_ns[out], kind="stable")][:5]
    return LeftOut(
        steps=len(out),
        time_share=round(float(steps.duration_ns[out].sum() / steps.duration_ns.sum()), 4),
        slowest=tuple(
            f"{names[i]}, iteration {steps.iteration[i]}: {steps.duration_ns[i] / 1e6:.2f} ms, "
            f"{MODES[steps.mode[i]]}, {predicted[i] / 1e6:.2f} ms fitted"
            for i in slowest.tolist()
        ),
        why=f"further from the fit than {SPREADS:g} spreads of their kind of step, and by {LEAST_RATIO:g} "
        "times at least",
    )


def _warning(errors: Mapping[str, Errors], clock: str) -> str | None:
    """That a calibration fits badly, by how much, and what helps; None for one that does not."""
    where, worst = max(errors.items(), key=lambda item: item[1].median)
    if worst.median <= LARGE_ERROR:
        return None
    helps = "more steps in batches of many sizes, a quieter machine"
    if clock == "wall":
        helps += ", or `runtime.clock: cpu` for steps on a CPU that other programs use too"
    return (
        f"the calibration fits badly: steps are off by {100 * worst.median:.1f} % in the median ({where}); "
        f"what helps: {helps}"
    )


def _approximations(
    steps: Steps, modes: tuple[str, ...], thin: int, runs: Sequence[Run]
) -> tuple[str, ...]:
    found = []
    decode = steps.decode_requests[steps.decode_requests > 0]
    if not len(decode):
        found.append("no step decodes: the cost of decoding is not known")
    elif decode.min() == decode.max():
        found.append(
            f"all steps that decode have {decode[0]} decode rows: how their cost grows with the batch is "
            "not known"
        )
    if modes == ("decode",):
        found.append("no step has prefill rows: the cost of prefill is not known")
    if (steps.prefill_requests > 0).any() and not steps.exact_rows[
        steps.prefill_requests > 0
    ].all():
        found.append(
            "prefill rows of a step are taken to be equally long and all to sample: no decision log in "
            "the records (--records decisions writes one)"
        )
    if thin > 1:
        found.append(f"one step in {thin} was used")
    if _clock(runs[0]) != "wall":
        found.append(
            "times are CPU time of the runs' process: a machine that does other work takes longer"
        )
    versions = [run.manifest.get("versions") for run in runs]
    if any(version != versions[0] for version in versions):
        found.append("the runs were made with different versions of software; see provenance")
    found += [f"run {r.name} is {r.status}: up to there" for r in runs if r.status != "complete"]
    return tuple(found)


def _provenance(run: Run) -> Mapping[str, Any]:
    """What a run's manifest says of where its times come from."""
    manifest = run.manifest
    known = ("world", "hardware", "versions", "clocks", "commit", "started", "seed")
    found = {key: manifest[key] for key in known if key in manifest}
    resolved = manifest.get("resolved", {})
    found["resolved"] = {
        key: resolved[key]
        for key in ("dtype", "attention", "cuda_graphs", "threads")
        if key in resolved
    }
    policy = manifest.get("config", {}).get("policy", {})
    found["policy"] = {
        key: policy[key] for key in ("order", "batching", "overlap", "page_size") if key in policy
    }
    workload = manifest.get("workload", {})
    found["workload"] = {k: workload[k] for k in ("name", "requests", "speedup") if k in workload}
    return {"run": run.name, "status": run.status, **found}
