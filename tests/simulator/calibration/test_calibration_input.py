"""What a profile cannot be made of is an error that says so; what cannot be told is written down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator import simulate
from simulator.calibration import CalibrationError
from simulator.calibration.fitting import calibrate
from simulator.calibration.steps import PHASES, Steps
from tests.simulator.calibration.truth import recorded, work
from traces import Run, SyntheticTokens, TraceRequest, Workload
from traces.records import RecordError


@pytest.fixture(scope="module")
def run() -> Run:
    return recorded(work(1, 40, rate=8))


def changed(run: Run, manifest: dict[str, Any] | None = None, **columns: Any) -> Run:
    """The run with another manifest, or other columns of steps."""
    tables = {name: run.arrow(name) for name in ("requests", "steps", "decisions")}
    steps = tables["steps"]
    for name, values in columns.items():
        steps = steps.set_column(steps.column_names.index(name), steps.schema.field(name), [values])
    tables["steps"] = steps
    return Run({**run.manifest, **(manifest or {})}, tables=tables)


def test_too_few_steps() -> None:
    few = recorded(work(1, 2, rate=8, output=5))
    with pytest.raises(
        CalibrationError, match=r"steps with a batch in all; at least 50 are needed"
    ):
        calibrate([few])


def test_no_run_and_no_steps(run: Run) -> None:
    with pytest.raises(CalibrationError, match="no run"):
        calibrate([])
    without = simulate(work(1, 5, rate=8), records=("requests",))
    with pytest.raises(RecordError, match="no table steps"):
        calibrate([without])


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("end_ns", "has end_ns -?[0-9]+ before start_ns"),
        ("commit_ns", "has commit_ns -?[0-9]+ before end_ns"),
        ("start_ns", "has start_ns -?[0-9]+ before the end_ns of the step before"),
        ("launch_ns", "has launch_ns -?[0-9]+ before that of the step before"),
    ],
)
def test_times_that_go_backwards(run: Run, column: str, said: str) -> None:
    values = run.arrow("steps")[column].to_numpy().copy()
    values[30] -= 10**9
    with pytest.raises(CalibrationError, match=rf"times go backwards .* iteration \d+ {said}"):
        calibrate([changed(run, **{column: values})])


def test_runs_that_do_not_belong_together(run: Run) -> None:
    hardware = run.manifest["hardware"]
    for what, other in (("device", "NVIDIA L40S"), ("model", "Qwen/Qwen3-4B")):
        second = changed(run, {"hardware": {**hardware, what: other}})
        with pytest.raises(CalibrationError, match=f"differ in {what}: .* and {other}"):
            calibrate([run, second])
    resolved = {**run.manifest["resolved"], "attention": {"name": "triton"}}
    with pytest.raises(CalibrationError, match="differ in attention backend: None and triton"):
        calibrate([run, changed(run, {"resolved": resolved})])
    with pytest.raises(CalibrationError, match="does not say which model"):
        calibrate([changed(run, {"hardware": {}})])


def test_one_batch_size_only_is_told() -> None:
    """Eight requests that begin and end together."""
    requests = [
        TraceRequest(f"r{i}", 0, SyntheticTokens(i, 64), SyntheticTokens(100 + i, 200))
        for i in range(8)
    ]
    profile = calibrate([recorded(Workload("even", requests))]).profile
    assert any("all steps that decode have 8 decode rows" in a for a in profile.approximations)


def test_an_unfinished_run_and_other_versions_are_told(run: Run) -> None:
    cut = changed(run, {"status": "interrupted", "name": "cut"})
    assert "run cut is interrupted: up to there" in calibrate([cut]).profile.approximations
    newer = changed(run, {"versions": {"schedtwin": "9"}})
    assert any("different versions" in a for a in calibrate([run, newer]).profile.approximations)


def test_without_a_decision_log_rows_are_taken_as_even(run: Run) -> None:
    plain = simulate(work(1, 40, rate=8))
    assert any("equally long" in text for text in calibrate([plain]).profile.approximations)
    assert not any("equally long" in text for text in calibrate([run]).profile.approximations)


def test_steps_are_what_was_launched(run: Run) -> None:
    """The sums of a step, from its items: pairs attended to, and rows that sample."""
    steps = Steps.of(run)
    items = run.decisions[run.decisions.kind == "item"]
    by_iteration = dict(iter(items.groupby("iteration")))
    for i, iteration in enumerate(steps.iteration.tolist()):
        rows = by_iteration[iteration]
        prefill = rows[rows.item_kind == "prefill"]
        pairs = sum(
            start + j + 1
            for start, length in zip(prefill.start, prefill.length, strict=True)
            for j in range(length)
        )
        assert steps.prefill_pairs[i] == pairs
        assert steps.sampled[i] == rows.stop.notna().sum()
        decode = rows[rows.item_kind == "decode"]
        assert steps.decode_kv_tokens[i] == (decode.start + 1).sum()
    assert steps.arrivals.sum() == 40
    assert steps.finished.sum() == 40
    table = run.arrow("steps")
    assert (steps.duration_ns == (table["end_ns"].to_numpy() - table["start_ns"].to_numpy())).all()
    assert steps.host_ns.shape == (len(PHASES), len(steps))


def test_the_time_until_a_device_begins_and_a_host_notices_is_not_lost(run: Run) -> None:
    """Every step begins 70 us after it could, and every wait ends 40 us late."""
    table = run.arrow("steps")
    raw = {name: table[name].to_numpy() for name in table.column_names if name.endswith("_ns")}
    before = Steps.of(run)
    free = np.maximum(raw["launch_ns"], np.concatenate([[0], raw["end_ns"][:-1]]))
    short = np.minimum(raw["end_ns"] - free, 70_000)
    late = changed(run, start_ns=free + short)
    assert (Steps.of(late).duration_ns == before.duration_ns).all()
    waits = before.wake_ns >= 0
    assert waits.any()
    assert (before.wake_ns[waits] == 0).all()
    slower = changed(run, host_collect_ns=raw["host_collect_ns"] - 40_000)
    assert (Steps.of(slower).wake_ns[waits] == 40_000).all()
    assert (before.between_ns[before.between_ns >= 0] == 0).all()


def test_a_run_on_cpu_time_is_told_and_not_mixed_with_others(run: Run) -> None:
    config = {**run.manifest["config"], "runtime": {"clock": "cpu"}}
    other = changed(run, {"config": config})
    with pytest.raises(CalibrationError, match="differ in clock: wall and cpu"):
        calibrate([run, other])
    assert any("CPU time" in said for said in calibrate([other]).profile.approximations)
