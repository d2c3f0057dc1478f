"""What a profile cannot be made of is an error that says so; what cannot be told is written down."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from simulator import simulate
from simulator.calibration import CalibrationError
from simulator.calibration.fitting import calibrate
from simulator.calibration.profile import CalibratedProfile
from simulator.calibration.steps import PHASES, Steps
from simulator.latency.base import StepShape
from simulator.latency.calibrated import CalibratedLatency
from tests.simulator.calibration.truth import recorded, work
from traces import Run, SyntheticTokens, TraceRequest, Workload
from traces.records import RecordError

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"decode_requests": -3}, "has decode_requests -3; expected no less than 0"),
        ({"host_schedule_ns": -1}, "has host_schedule_ns -1; expected no less than 0"),
        ({"waiting": -1}, "has waiting -1; expected no less than 0"),
        (
            {"prefill_requests": 0, "prefill_tokens": 7, "cached_tokens": 0},
            "has prefill_requests 0, prefill_tokens 7; expected one new token a prefill row",
        ),
        ({"prefill_requests": 2, "prefill_tokens": 0}, "has prefill_requests 2, prefill_tokens 0"),
        (
            {"prefill_requests": 0, "prefill_tokens": 0, "cached_tokens": 9},
            "has prefill_requests 0, cached_tokens 9; expected no cached tokens without",
        ),
        (
            {"kv_tokens_read": 0, "query_kv_product": 0},
            "has decode_requests .*; expected KV read beyond that of prefill rows",
        ),
        ({"query_kv_product": 0}, "has query_kv_product 0, kv_tokens_read"),
        ({"iteration": 1}, "has iteration 1; expected one above that of the step before"),
    ],
)
def test_steps_that_there_cannot_be(run: Run, columns: dict[str, int], said: str) -> None:
    table = run.arrow("steps")
    at = int(np.flatnonzero(table["decode_requests"].to_numpy())[30])
    values = {}
    for name, value in columns.items():
        values[name] = table[name].to_numpy().copy()
        values[name][at] = value
    with pytest.raises(CalibrationError, match=rf"1 steps that cannot be: iteration \d+ {said}"):
        calibrate([changed(run, **values)])


def test_values_that_are_not_there(run: Run) -> None:
    ends = run.arrow("steps")["end_ns"].to_pylist()
    ends[7] = None
    with pytest.raises(CalibrationError, match="1 steps without end_ns"):
        calibrate([changed(run, end_ns=ends)])


def test_steps_that_took_no_time(run: Run) -> None:
    table = run.arrow("steps")
    ends = table["end_ns"].to_numpy().copy()
    ends[20] = table["start_ns"].to_numpy()[20]
    with pytest.raises(
        CalibrationError, match=r"1 steps with a batch took no time .* iteration 21;"
    ):
        calibrate([changed(run, end_ns=ends)])


def test_a_run_given_twice_counts_once_or_not_at_all(run: Run) -> None:
    with pytest.raises(CalibrationError, match=r"run \(1\) and run \(2\) have the same steps"):
        calibrate([run, changed(run)])
    copy = changed(run, {"name": "copy", "versions": {"schedtwin": "9"}})
    with pytest.raises(CalibrationError, match="run and copy have the same steps"):
        calibrate([run, copy])


def test_ranks_in_one_table_are_not_taken_for_one_engine(run: Run) -> None:
    with pytest.raises(CalibrationError, match="is of 2 ranks"):
        calibrate([changed(run, {"ranks": 2})])


def test_a_profile_is_held_to_what_a_calibration_writes(run: Run, tmp_path: Path) -> None:
    made = calibrate([run]).profile.model_dump(mode="json")
    path = tmp_path / "profile.json"
    for place, value, said in (
        (("ranges", "tokens"), [9, 3], "range of tokens is from 9 to 3"),
        (
            ("latency", "fixed_ns"),
            float("inf"),
            r"latency\.fixed_ns: Input should be a finite number",
        ),
        (("latency", "sampled_ns"), -1.0, r"latency\.sampled_ns: .*greater than or equal to 0"),
    ):
        wrong = json.loads(json.dumps(made))
        wrong[place[0]][place[1]] = value
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=said):
            CalibratedProfile.load(path)


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
    run = recorded(Workload("even", requests))
    profile = calibrate([run]).profile
    assert any("all steps that decode have 8 decode rows" in a for a in profile.approximations)
    # what a batch of 8 takes is a launch, mostly: another 56 rows do not take seven times as much more
    latency = CalibratedLatency(profile)

    def step_ns(rows: int) -> int:
        return latency.step_ns(StepShape((), rows, rows * 200, rows, lambda: np.full(rows, 200)))

    assert step_ns(8) <= step_ns(64) < 1.5 * step_ns(8)


def test_an_unfinished_run_and_other_versions_are_told(run: Run) -> None:
    cut = changed(run, {"status": "interrupted", "name": "cut"})
    assert "run cut is interrupted: up to there" in calibrate([cut]).profile.approximations
    newer = changed(recorded(work(2, 20, rate=8)), {"versions": {"schedtwin": "9"}})
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
