"""A replay takes what the run took, step by step; where the two differ it stops, or tells how often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator import Plan, StepShape, simulate
from simulator.calibration.fitting import calibrate
from simulator.latency.calibrated import CalibratedLatency
from simulator.latency.replayed import ReplayedLatency, ReplayError
from simulator.simulation import as_config
from tests.simulator.calibration.truth import noisy_device, recorded, work
from traces import Run, SyntheticTokens, TraceRequest, Workload, load_run

LOAD = work(1, 60, rate=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("runs") / "served"
    with noisy_device(0.1):
        simulate(LOAD, out=out, records=("requests", "steps", "decisions", "tokens"))
    return str(out)


def same_times(one: Run, other: Run) -> bool:
    return all(
        one.arrow("steps")[name].equals(other.arrow("steps")[name])
        for name in one.arrow("steps").column_names
    )


@pytest.mark.parametrize("leap", [True, False])
def test_the_same_requests_give_the_same_run(folder: str, leap: bool) -> None:
    replayed = {"latency": {"model": "replayed", "run": folder}}
    run = simulate(LOAD, replayed, leap=leap)
    assert same_times(run, load_run(folder))
    assert run.arrow("requests")["finish_ns"].equals(
        load_run(folder).arrow("requests")["finish_ns"]
    )
    assert run.manifest["flags"] == {}


def test_other_steps_end_it_with_both_named(folder: str) -> None:
    replayed: dict[str, Any] = {"latency": {"model": "replayed", "run": folder}}
    said = (
        r"latency\.run served: step \d+ of the simulation has \d+ prefill_requests, .*but iteration "
        r"\d+ had \d+ prefill_requests.*latency\.otherwise"
    )
    with pytest.raises(ReplayError, match=said):
        simulate(LOAD, {**replayed, "policy": {"chunked_prefill_size": 128}})
    late = TraceRequest("late", 10**12, SyntheticTokens(1, 50), SyntheticTokens(2, 5))
    longer = Workload("longer", [*LOAD.requests, late])
    with pytest.raises(ReplayError, match=r"that run ended after \d+ steps"):
        simulate(longer, replayed)


@pytest.mark.parametrize("leap", [True, False])
def test_another_model_may_answer_where_they_differ(folder: str, tmp_path: Any, leap: bool) -> None:
    path = str(tmp_path / "p.json")
    calibrate([load_run(folder)]).profile.save(path)
    section = {"model": "replayed", "run": folder, "otherwise": path}
    policy = {"max_running_requests": 3}
    run = simulate(LOAD, {"latency": section, "policy": policy}, leap=leap)
    assert run.status == "complete"
    told = run.manifest["flags"]["steps that the replayed run did not have there"]
    assert 0 < told <= run.manifest["counts"]["steps"]
    assert same_times(simulate(LOAD, {"latency": section}), load_run(folder))


def test_walking_and_leaping_differ_in_nothing(folder: str, tmp_path: Any) -> None:
    path = str(tmp_path / "p.json")
    calibrate([load_run(folder)]).profile.save(path)
    section = {"model": "replayed", "run": folder, "otherwise": path}
    config = {"latency": section, "policy": {"max_running_requests": 3}}
    walked, leapt = (simulate(LOAD, config, leap=leap) for leap in (False, True))
    assert same_times(walked, leapt)
    assert walked.manifest == leapt.manifest


def test_looking_ahead_does_not_move_on(folder: str) -> None:
    run = load_run(folder)
    latency = ReplayedLatency(run, CalibratedLatency(calibrate([run]).profile))
    steps = run.steps[run.steps["mode"] != "empty"]
    first = steps.iloc[0]
    no_lens = np.zeros(0, np.int64)
    assert first["decode_requests"] == 0
    prefill = [(int(first["prefill_tokens"]), int(first["cached_tokens"]))]
    took = latency.step_ns(StepShape(prefill, 0, 0, 1, lambda: no_lens))
    assert took == first["end_ns"] - first["start_ns"]
    rows, kv = (int(steps.iloc[1][name]) for name in ("decode_requests", "kv_tokens_read"))
    ahead = latency.decode_steps_ns(rows, kv, 3, lambda: no_lens)
    assert ahead.tolist() == latency.decode_steps_ns(rows, kv, 3, lambda: no_lens).tolist()
    latency.took(rows, kv, 1)
    after = latency.decode_steps_ns(rows, kv + rows, 2, lambda: no_lens)
    assert ahead[1:].tolist() == after.tolist()


def test_a_run_made_without_steps_cannot_be_replayed(tmp_path: Any) -> None:
    from policies.config import ConfigError

    simulate(LOAD, out=tmp_path / "bare", records=("requests",))
    section = {"model": "replayed", "run": str(tmp_path / "bare")}
    with pytest.raises(ConfigError, match=r"latency\.run: run bare has no table steps"):
        simulate(LOAD, {"latency": section})
    with pytest.raises(ConfigError, match=r"latency\.run: .*no such run folder"):
        simulate(LOAD, {"latency": {"model": "replayed", "run": str(tmp_path / "none")}})


def test_a_run_of_another_model_or_device_is_refused_unless_accepted(folder: str) -> None:
    from policies.config import ConfigError

    section = {"model": "replayed", "run": folder}
    small = {"latency": section, "model": {"path": "Qwen/Qwen3-4B"}}
    with pytest.raises(ConfigError, match=r"latency\.run: .* is no run for this: it is of model"):
        simulate(LOAD, small)
    with pytest.raises(ConfigError, match=r"latency\.run: .*the config's device is h100"):
        simulate(LOAD, {"latency": section, "device": {"name": "h100"}})
    accepted = {"latency": {**section, "accept_mismatch": True}, "device": {"name": "h100"}}
    told = Plan.of(as_config(accepted)).approximations
    assert any("the config's device is h100" in text for text in told)


def test_recorded_runs_serve_from_memory_too() -> None:
    run = recorded(LOAD, 0.1)
    assert len(ReplayedLatency(run)._durations) == run.manifest["counts"]["steps"]
