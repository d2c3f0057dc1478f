"""The fit finds what it was made from, is not bent by odd steps, and predicts what it has not seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from simulator import Plan, SimulatorConfig, StepShape, simulate
from simulator.calibration.fitting import LARGE_ERROR, Calibration, calibrate
from simulator.calibration.holdout import predict
from simulator.calibration.robust import fit_mean
from simulator.calibration.steps import Steps
from simulator.host import HostModel, HostOptions
from simulator.latency.calibrated import CalibratedLatency
from tests.simulator.calibration.truth import noisy_device, recorded, work

if TYPE_CHECKING:
    from traces import Run

LIMITS = {"policy": {"max_running_requests": 48}}


@pytest.fixture(scope="module")
def clean() -> Run:
    return recorded(work(1, 150, rate=12), **LIMITS)


@pytest.fixture(scope="module")
def noisy() -> Run:
    return recorded(work(1, 150, rate=12), 0.05, **LIMITS)


def test_without_noise_it_finds_the_device(clean: Run) -> None:
    made = calibrate([clean])
    assert made.profile.left_out.steps == 0
    assert made.profile.approximations == ()
    assert made.profile.errors["in the fit"].mean < 0.005
    assert made.profile.errors["every 5th step"].p95 < 0.02
    assert made.profile.errors["the largest work"].mean < 0.02


def test_without_noise_it_finds_the_host(clean: Run) -> None:
    host = HostModel(HostOptions(**calibrate([clean]).profile.host))
    true = HostModel()
    for rows in (1, 10, 48):
        assert host.prepare_ns(0, 0, rows) == pytest.approx(true.prepare_ns(0, 0, rows), rel=1e-3)
        assert host.collect_ns(rows) == pytest.approx(true.collect_ns(rows), rel=1e-3)
        assert host.commit_ns(rows, 2) == pytest.approx(true.commit_ns(rows, 2), rel=1e-3)
        assert host.schedule_ns(0, rows, 2) == pytest.approx(true.schedule_ns(0, rows, 2), rel=1e-3)
    assert host.prepare_ns(2, 3000, 5) == pytest.approx(true.prepare_ns(2, 3000, 5), rel=1e-2)
    assert host.receive_ns(3) == pytest.approx(true.receive_ns(3), rel=1e-2)
    assert host.launch_ns() == true.launch_ns()


def test_with_noise_it_finds_the_mean(noisy: Run) -> None:
    made = calibrate([noisy])
    held = made.profile.errors["every 5th step"]
    # of normal noise the mean deviation is 0.8 of its spread
    assert held.mean < 1.15 * 0.05 * math.sqrt(2 / math.pi)
    assert abs(held.total) < 0.01
    true = Plan.of(SimulatorConfig()).latency
    steps = made.steps[made.steps.prefill_requests == 0]
    exact = np.array(
        [
            true.step_ns(StepShape((), int(n), int(kv), int(n), lambda: np.zeros(0, np.int64)))
            for n, kv in zip(steps.decode_requests, steps.decode_kv_tokens, strict=True)
        ]
    )
    fitted = predict(made.profile.latency, steps)
    assert np.abs(fitted / exact - 1).mean() < 0.015
    assert fitted.sum() == pytest.approx(exact.sum(), rel=0.01)


def test_what_is_reported_is_what_the_model_answers(noisy: Run) -> None:
    made = calibrate([noisy])
    latency = CalibratedLatency(made.profile)
    for i in np.flatnonzero(made.steps.prefill_requests == 0)[::7].tolist():
        rows, kv = int(made.steps.decode_requests[i]), int(made.steps.decode_kv_tokens[i])
        shape = StepShape((), rows, kv, rows, lambda: np.zeros(0, np.int64))
        assert latency.step_ns(shape) == pytest.approx(made.predicted_ns[i], abs=1)
    assert latency.flags() == {}


def test_a_few_steps_a_hundred_times_too_slow_do_not_bend_it(noisy: Run) -> None:
    steps = Steps.of(noisy)
    some = steps.decode_kv_tokens[steps.mode == 0]
    slow = frozenset(some[[0, len(some) // 3, len(some) // 2]].tolist())
    with noisy_device(0.05, slow=slow):
        bent = simulate(work(1, 150, rate=12), LIMITS, records=("requests", "steps", "decisions"))
    made = calibrate([bent])
    left = made.profile.left_out
    assert 1 <= left.steps <= 6
    assert left.time_share > 0.02
    assert "ms fitted" in left.slowest[0]
    plain = calibrate([noisy]).profile.latency
    both = Steps.of(noisy)
    off = predict(made.profile.latency, both) / predict(plain, both) - 1
    assert np.abs(off).mean() < 0.01


def test_a_kind_of_step_the_form_does_not_fit_is_not_thrown_away() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 100, 400)
    times = 1000 * x
    times[::8] *= 20  # an eighth: no outliers any more
    fit = fit_mean(x[:, None], times, np.zeros(400, np.int64))
    assert fit.kept.all()


@pytest.mark.parametrize("spread", [0.05, 0.3])
def test_the_fit_is_of_the_mean_whatever_the_spread(spread: float) -> None:
    rng = np.random.default_rng(3)
    x = rng.uniform(1, 100, 4000)
    times = (5000 + 700 * x) * rng.lognormal(-spread * spread / 2, spread, 4000)
    columns = np.stack([np.ones(4000), x], axis=1)
    fit = fit_mean(columns, times, np.zeros(4000, np.int64))
    assert (columns @ fit.theta).sum() == pytest.approx((5000 + 700 * x).sum(), rel=0.015)


@pytest.mark.parametrize(
    "sections",
    [
        {"policy": {"order": "lpm", "page_size": 16}},
        {"policy": {"batching": "mixed", "chunked_prefill_size": 512}},
        {"policy": {"overlap": "serial"}},
    ],
)
def test_another_trace_rate_and_policy_are_predicted(
    noisy: Run, tmp_path, sections: dict[str, dict[str, object]]
) -> None:
    calibrate([noisy]).profile.save(tmp_path / "p.json")
    other = work(2, 150, rate=16, prompt=500, output=100)
    policy = {**LIMITS["policy"], **sections["policy"]}
    real = recorded(other, 0.05, seed=9, policy=policy)
    path = str(tmp_path / "p.json")
    calibrated = {
        "latency": {"model": "calibrated", "profile": path},
        "host": {"profile": path},
        "policy": policy,
    }
    predicted = simulate(other, calibrated)
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        one, two = getattr(real.summary(), metric), getattr(predicted.summary(), metric)
        assert two.mean == pytest.approx(one.mean, rel=0.03), metric
        assert two.p50 == pytest.approx(one.p50, rel=0.04), metric


def test_a_fit_that_is_far_off_warns_and_says_by_how_much_and_what_helps(noisy: Run) -> None:
    assert calibrate([noisy]).warning is None
    bad = recorded(work(1, 40, rate=12), 0.5, **LIMITS)
    made = calibrate([bad])
    worst = max(error.median for error in made.profile.errors.values())
    assert worst > LARGE_ERROR
    assert f"off by {100 * worst:.1f} % in the median" in made.warning
    for helps in ("more steps", "a quieter machine", "`runtime.clock: cpu`"):
        assert helps in made.warning
    assert made.profile.approximations[0] == made.warning
    bad.manifest["config"]["runtime"] = {"clock": "cpu"}
    assert "runtime.clock" not in calibrate([bad]).warning


def test_several_runs_are_fitted_together_and_each_is_held_out_once(noisy: Run) -> None:
    other = recorded(work(4, 60, rate=5), 0.05, seed=4, **LIMITS)
    noisy.manifest["name"], other.manifest["name"] = "busy", "calm"
    made: Calibration = calibrate([noisy, other])
    assert {"run busy", "run calm"} <= set(made.profile.errors)
    assert made.profile.errors["run calm"].mean < 0.08
    assert [run["run"] for run in made.profile.provenance["runs"]] == ["busy", "calm"]
    assert made.profile.provenance["runs"][0]["hardware"]["device"] == "NVIDIA H200 SXM 141GB"
