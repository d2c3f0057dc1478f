"""A run's decisions, taken again from what it recorded, are the same; where they are not, it is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import ORDERS
from policies.config import ConfigError
from policies.orders.base import QueueOrder
from simulator import simulate
from simulator.verify import verify
from tests.simulator.harness import EVERYTHING, MS
from tests.simulator.test_leap import policies, workloads
from traces import Run, SyntheticTokens, TraceRequest, Workload
from traces.records import RecordError, load_run
from traces.records.schema import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Row = dict[str, Any]


@st.composite
def keyed(draw: st.DrawFn) -> Workload:
    """Requests that also differ in all else that a policy may look at."""
    work = draw(workloads())
    names = st.sampled_from([None, None, "a", "b"])
    requests = [
        replace(
            request,
            extra_key=draw(names),
            lora_id=draw(names),
            routing_key=draw(names),
            tenant=draw(names),
            session=draw(names),
        )
        for request in work
    ]
    return Workload("keyed", requests)


@st.composite
def more_policies(draw: st.DrawFn) -> dict[str, Any]:
    """Also orders that look at keys or draw at random, adapters, preemption, little reserve."""
    policy = draw(policies())
    orders = ["fcfs", "lpm", "hrrn", "random", "routing-key", "fair"]
    if policy["cache"] == "radix":
        orders.append("dfs-weight")
    policy["order"] = draw(st.sampled_from(orders))
    if policy["order"] == "random":
        policy["order_options"] = {"seed": draw(st.integers(0, 3))}
    if "order_options" not in policy and policy["batching"] != "decode-first":
        policy["new_token_ratio"] = {"init": 0.05, "min_factor": 0.05}  # retracts
        policy["max_loras_per_batch"] = draw(st.sampled_from([None, 2]))
    if policy["batching"] == "decode-first" and policy["order"] == "fcfs":
        policy["priority"] = {"enabled": draw(st.booleans())}
    return policy


@settings(max_examples=60)
@given(keyed(), more_policies(), st.integers(120, 600), st.sampled_from(["zero", "production"]))
def test_every_run_decides_the_same_again(
    work: Workload, policy: dict[str, Any], capacity: int, host: str
) -> None:
    config = {"policy": policy, "kv": {"capacity_tokens": capacity}, "host": {"preset": host}}
    run = simulate(work, config, records=("decisions",))
    verdict = verify(run)
    assert verdict.identical, str(verdict)
    assert verdict.note is None
    assert verdict.steps == run.manifest["counts"]["steps"]
    assert verdict.requests == len(work)


CROWDED = {
    "kv": {"capacity_tokens": 120},
    "policy": {
        "order": "lpm",
        "chunked_prefill_size": 16,
        "new_token_ratio": {"init": 0.05, "min_factor": 0.05},
        "priority": {"enabled": True},
    },
}
# under vLLM's way, and pipelined: empty batches that announce ends
BLOCKS = {
    "kv": {"capacity_tokens": 128},
    "policy": {
        "batching": "decode-first",
        "cache": "blocks",
        "page_size": 4,
        "batching_options": {"max_num_batched_tokens": 24},
    },
}


def crowd() -> Workload:
    """Twelve requests for whom there is not enough memory: two texts, one gives up, one is too long."""
    requests = [
        TraceRequest(
            f"r{i:02}",
            i * 5 * MS,
            SyntheticTokens(i % 2, 12 + i % 5),
            SyntheticTokens(50 + i, 8 + 3 * i),
            priority=i % 3 * 20,
            ignore_eos=i % 2 == 0,
            abort_ns=95 * MS if i == 7 else None,
        )
        for i in range(12)
    ]
    requests.append(TraceRequest("long", 70 * MS, SyntheticTokens(9, 500), SyntheticTokens(10, 2)))
    return Workload("crowd", requests)


@pytest.fixture(scope="module")
def run() -> Run:
    return simulate(crowd(), CROWDED, records=EVERYTHING)


def changed(run: Run, table: str, change: Callable[[list[Row]], list[Row]]) -> Run:
    """The same run with other rows in a table."""
    tables = {name: run.arrow(name) for name in TABLES if run.has(name)}
    rows = change(tables[table].to_pylist())
    tables[table] = pa.Table.from_pylist(rows, schema=tables[table].schema)
    return Run(run.manifest, tables=tables)


def under(run: Run, *, capacity: int | None = None, **policy: Any) -> Run:
    """The same records, said to be of another policy or of another capacity."""
    manifest = dict(run.manifest)
    config = manifest["config"]
    manifest["config"] = {**config, "policy": {**config["policy"], **policy}}
    manifest["kv_capacity_tokens"] = capacity or manifest["kv_capacity_tokens"]
    return Run(manifest, tables={name: run.arrow(name) for name in TABLES if run.has(name)})


def nth(rows: list[Row], which: Callable[[Row], bool], n: int) -> Row:
    return [row for row in rows if which(row)][n]


def sampled(row: Row) -> bool:
    return row["stop"] is not None


def test_the_run_that_is_tampered_with_below_is_an_eventful_one(run: Run) -> None:
    verdict = verify(run)
    steps = run.manifest["counts"]["steps"]
    assert str(verdict) == f"identical: {steps} steps, 13 requests"
    requests = run.requests
    assert requests.retractions.sum() > 0
    assert set(requests.finish_reason) == {"stop", "length", "abort", "refused"}
    assert (requests.cached_tokens > 0).any()


def test_empty_batches_are_recorded_and_planned_again() -> None:
    run = simulate(crowd(), BLOCKS, records=EVERYTHING)
    assert (run.steps["mode"] == "empty").any()
    log = run.decisions
    assert list(log.loc[log.kind == "batch", "iteration"]) == list(run.steps.iteration)
    assert verify(run).steps == len(run.steps)
    empty = int(run.steps.loc[run.steps["mode"] == "empty", "iteration"].iloc[0])
    without = changed(run, "decisions", lambda rows: [r for r in rows if r["iteration"] != empty])
    assert not verify(without).identical


def test_another_sampled_token_is_found(run: Run) -> None:
    def change(rows: list[Row]) -> list[Row]:
        row = nth(rows, sampled, 30)
        row["sampled_token"] += 1
        changed_row.update(row)
        return rows

    changed_row: Row = {}
    found = verify(changed(run, "decisions", change)).difference
    assert found is not None
    assert changed_row["request_id"] in str(found)


def test_another_stop_is_found(run: Run) -> None:
    def change(rows: list[Row]) -> list[Row]:
        row = nth(rows, lambda r: r["stop"] is False and r["item_kind"] == "decode", 40)
        row["stop"] = True
        return rows

    verdict = verify(changed(run, "decisions", change))
    assert not verdict.identical
    assert verdict.steps > 3


@pytest.mark.parametrize("event", ["arrival", "abort"])
def test_an_inbox_that_lacks_something_is_found(run: Run, event: str) -> None:
    def change(rows: list[Row]) -> list[Row]:
        gone.append(nth(rows, lambda r: r["event"] == event, 0))
        return [row for row in rows if row is not gone[0]]

    gone: list[Row] = []
    verdict = verify(changed(run, "decisions", change))
    assert not verdict.identical
    assert verdict.difference is not None
    assert verdict.difference.iteration >= gone[0]["iteration"]


def test_an_item_that_is_another_is_named(run: Run) -> None:
    def change(rows: list[Row]) -> list[Row]:
        row = nth(rows, lambda r: r["item_kind"] == "prefill", 5)
        row["start"] += 1
        named.update(row)
        return rows

    named: Row = {}
    found = verify(changed(run, "decisions", change)).difference
    assert found is not None
    assert found.iteration == named["iteration"]
    assert found.why.endswith("in the batch is another")
    span = f"tokens [{named['start']}, {named['start'] + named['length']}), in row {named['row']}"
    assert found.recorded == f"prefill of {named['request_id']}, {span}"
    assert found.planned != found.recorded
    assert f"iteration {named['iteration']}" in found.state
    assert "waiting" in found.state


def test_an_end_that_is_another_is_named(run: Run) -> None:
    def change(rows: list[Row]) -> list[Row]:
        row = nth(rows, lambda r: r["finish_reason"] == "stop", 0)
        row["finish_reason"] = "length"
        named.append(row["id"])
        return rows

    named: list[str] = []
    found = verify(changed(run, "requests", change)).difference
    assert found is not None
    assert found.why == f"request {named[0]} ends otherwise"
    assert found.planned.startswith("stop after")
    assert found.recorded.startswith("length after")


def test_another_order_or_memory_or_way_to_retract_is_found(run: Run) -> None:
    for other in (
        under(run, order="fcfs", priority={"enabled": False}),
        under(run, capacity=160),
        under(run, chunked_prefill_size=None, overlap="serial"),
    ):
        assert not verify(other).identical


def test_the_message_is_short_and_has_all(run: Run) -> None:
    verdict = verify(under(run, capacity=160))
    first, *rest = str(verdict).splitlines()
    assert first.startswith(f"different after {verdict.steps} steps, in round ")
    assert [line.split(":")[0].strip() for line in rest] == ["planned", "recorded", "state"]


# -- runs that cannot be gone through, or not to their ends ---------------------------------------


def test_a_run_without_decisions_says_how_to_get_them(tmp_path: Path) -> None:
    simulate(crowd(), CROWDED, out=tmp_path / "run")
    with pytest.raises(RecordError, match=r"written with --records requests,steps; .*decisions"):
        verify(tmp_path / "run")


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("steps", [0, 1, 9, 40])
def test_a_run_that_was_interrupted_is_gone_through_as_far_as_it_goes(
    steps: int, overlap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulator.device import SerialDevice

    submit, seen = SerialDevice.submit, 0

    def interrupted(self: SerialDevice, now_ns: int, duration_ns: int) -> tuple[int, int]:
        nonlocal seen
        seen += 1
        if seen > steps:
            raise KeyboardInterrupt
        return submit(self, now_ns, duration_ns)

    monkeypatch.setattr(SerialDevice, "submit", interrupted)
    settings = [f"policy.overlap={overlap}"]
    with pytest.raises(KeyboardInterrupt):
        simulate(crowd(), CROWDED, settings=settings, records=EVERYTHING, out=tmp_path / "run")
    verdict = verify(tmp_path / "run")
    assert verdict.identical
    assert verdict.steps == steps
    assert verdict.note == "as far as it was recorded: the run was interrupted"


def test_a_run_that_was_killed_is_gone_through_as_far_as_it_was_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asked for is written when a request ends: before the first end, nothing can be replayed."""
    from traces.records.writer import RunWriter

    def killed(self: RunWriter, *_: object, **__: object) -> None:
        self.flush()
        raise SystemExit

    monkeypatch.setattr("simulator.recorder.FLUSH_EVERY", 60)
    monkeypatch.setattr(RunWriter, "maybe_flush", killed)
    monkeypatch.setattr(RunWriter, "close", lambda *_, **__: None)
    with pytest.raises(SystemExit):
        simulate(crowd(), CROWDED, records=EVERYTHING, out=tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.status == "running"
    verdict = verify(run)
    assert verdict.identical
    assert verdict.steps > 0
    assert "was not written" in str(verdict)


def test_a_policy_that_is_not_known_is_an_error(run: Run) -> None:
    @ORDERS.register("last-first")
    class LastFirst(QueueOrder):
        def arrange(self, waiting: Any, view: Any) -> list[Any]:
            return sorted(waiting, key=lambda r: -r.entry)

    mine = simulate(crowd(), CROWDED, settings=["policy.order=last-first"], records=EVERYTHING)
    assert verify(mine).identical
    del ORDERS._classes["last-first"]
    with pytest.raises(ConfigError, match="unknown queue order 'last-first'; known are"):
        verify(mine)


def test_a_log_in_disorder_is_an_error(run: Run) -> None:
    def change(rows: list[Row]) -> list[Row]:
        return [row for row in rows if row["kind"] != "batch"]

    with pytest.raises(RecordError, match="where nothing was opened that it belongs to"):
        verify(changed(run, "decisions", change))
