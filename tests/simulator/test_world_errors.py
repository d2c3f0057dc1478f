"""Bad configs and bad policies: each ends in an error that says what and where, and keeps the records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from policies import BATCHINGS, ORDERS, KeyOrder, QueueOrder
from policies.batching.prefill_first import PrefillFirst
from policies.config import ConfigError
from policies.registry import StrategyError
from policies.stuck import StuckError
from simulator import RooflineLatency, simulate
from tests.simulator.checks import rows_of
from tests.simulator.harness import MS, crowd, request_of
from traces.records import load_run
from traces.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from policies import Batch, Request, Scheduler
    from simulator import StepShape

WORK = crowd(1, 60, 15 * MS, prompt=40, output=8)


# -- configs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("policy.order=lifo", "unknown queue order 'lifo'; known are dfs-weight, fair, fcfs,"),
        ("policy.batching=magic", "unknown batching 'magic'; known are"),
        ("policy.eviction=oldest", "unknown eviction 'oldest'; known are fifo,"),
        ("policy.odrer=lpm", "unknown key 'policy.odrer'; known here are order,"),
        ("polices.order=lpm", "unknown key 'polices'; known here are policy,"),
        ("policy.page_size=0", "policy.page_size"),
        ("policy.page_size=-3", "policy.page_size"),
        ("policy.page_size=1.5", "policy.page_size"),
        ("policy.max_running_requests=0", "policy.max_running_requests"),
        ("policy.chunked_prefill_size=some", "policy.chunked_prefill_size"),
        ("policy.new_token_ratio.min_factor=1.5", "policy.new_token_ratio.min_factor"),
        ("policy.order_options={depth: 3}", "queue order 'fcfs' has no option 'depth'"),
        ("kv.mem_fraction=1.5", "kv.mem_fraction"),
        ("kv.capacity_tokens=0", "kv.capacity_tokens"),
        ("workload.max_new_tokens=0", "workload.max_new_tokens"),
        ("host.launch_fixed_ns=-1", "host.launch_fixed_ns"),
        ("host.launch_fixed_ns=0.5", "host.launch_fixed_ns"),
        ("latency.model=magic", "latency.model"),
        ("device.name=h2000", "device.name: "),
        ("model.path=Qwen/Qwen9", "model.path: "),
        ("seed=-1", "seed"),
    ],
)
def test_a_bad_setting_is_named_with_what_would_do(setting: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        simulate(WORK, settings=[setting])
    assert says in str(caught.value)
    value = setting.partition("=")[2]
    assert value in str(caught.value) or "unknown key" in str(caught.value) or "depth" in value


def test_a_model_that_does_not_fit_says_so_and_by_how_much() -> None:
    settings = ["model.path=Llama-3.1-70B", "device.name=rtx-4090"]
    with pytest.raises(ConfigError, match=r"^kv: .*GiB|^kv: .*GB") as caught:
        simulate(WORK, settings=settings)
    assert "70B" in str(caught.value)


def test_a_pool_below_two_pages_is_refused_and_one_of_two_runs() -> None:
    settings = ["policy.page_size=64", "kv.capacity_tokens=127"]
    with pytest.raises(ConfigError, match=r"127 tokens are less than two pages of 64"):
        simulate(WORK, settings=settings)
    run = simulate(WORK, settings=["policy.page_size=64", "kv.capacity_tokens=128"])
    reasons = {row["finish_reason"] for row in rows_of(run, "requests")}
    assert reasons <= {"length", "refused"}
    assert run.status == "complete"


# -- policies that break the rules ----------------------------------------------------------------


@pytest.fixture
def registered() -> Iterator[None]:
    """Whatever a test registers is forgotten after it."""
    known = [(registry, dict(registry._classes)) for registry in (ORDERS, BATCHINGS)]
    for registry, _ in known:
        registry.names()  # have what ships loaded first
    yield
    for registry, classes in known:
        registry._classes.clear()
        registry._classes.update(classes)


def order_from(arrange: Callable[[list[Request]], Any]) -> str:
    """Register an order that does what it is told, as a notebook cell would."""

    @ORDERS.register("mine")
    class Mine(QueueOrder):
        def arrange(self, waiting: Any, view: Any) -> Any:
            return arrange(waiting)

    return "policy.order=mine"


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("arrange", "says"),
    [
        (lambda _: [], "left out 'r000000', 'r000001', 'r000002' ..."),
        (lambda waiting: waiting[1:], "given 5 requests and returned 4: it left out 'r000000'"),
        (lambda waiting: [*waiting, waiting[0]], "gave some twice"),
        (lambda waiting: [waiting[0]] * len(waiting), "... and gave some twice"),
        (lambda waiting: [*waiting[1:], "r1"], "added 'r1'"),
        (lambda waiting: waiting.clear() or waiting, "returned 0"),
        (lambda _: None, "returned None, not a list"),
        (lambda waiting: (request for request in waiting), "not a list"),
    ],
    ids=["empty", "drops", "repeats", "replaces", "invents", "clears", "none", "generator"],
)
def test_an_order_that_loses_or_makes_up_requests_is_named(
    arrange: Callable[[list[Request]], Any], says: str, tmp_path: Path
) -> None:
    setting = order_from(arrange)
    work = Workload("w", [request_of(i, 0, 40, 4) for i in range(5)])
    with pytest.raises(StrategyError, match="queue order 'mine'") as caught:
        simulate(work, settings=[setting], out=tmp_path / "run")
    assert says in str(caught.value)
    assert "every request it is given, each once" in str(caught.value)
    assert "StrategyError: queue order 'mine'" in load_run(tmp_path / "run").status


@pytest.mark.usefixtures("registered")
def test_an_honest_order_of_ones_own_is_taken_at_its_word() -> None:
    def sort_in_place(waiting: list[Request]) -> list[Request]:
        waiting.sort(key=lambda request: -request.prompt_len)
        return waiting

    run = simulate(WORK, settings=[order_from(sort_in_place)])
    assert run.manifest["counts"]["finished"] == len(WORK)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("preset", ["production", "zero"])
def test_a_batching_that_never_plans_is_named_with_the_state(preset: str, overlap: str) -> None:
    @BATCHINGS.register("asleep")
    class Asleep(PrefillFirst):
        def next_batch(self, s: Scheduler) -> Batch | None:
            return None

    settings = [
        "policy.batching=asleep",
        f"host.preset={preset}",
        f"policy.overlap={overlap}",
        "policy.order=lpm",
    ]
    with pytest.raises(StuckError, match="batching 'asleep' with order 'lpm'") as caught:
        simulate(WORK, settings=settings)
    assert "waiting " in str(caught.value)
    assert "free_tokens " in str(caught.value)


@pytest.mark.usefixtures("registered")
def test_an_error_in_a_policy_keeps_the_records_and_names_where(tmp_path: Path) -> None:
    @ORDERS.register("broken")
    class Broken(KeyOrder):
        asked = 0

        def key(self, request: Request, view: Any) -> float:
            Broken.asked += 1
            return 1 / (20 - Broken.asked)

    with pytest.raises(ZeroDivisionError) as caught:
        simulate(WORK, settings=["policy.order=broken"], out=tmp_path / "run")
    assert any("in round " in note and " ns" in note for note in caught.value.__notes__)
    run = load_run(tmp_path / "run")
    assert run.status.startswith("failed: ZeroDivisionError: ")
    assert Path(__file__).name in run.status
    assert "in key; in round " in run.status
    rows = rows_of(run, "requests")
    ended = [row for row in rows if row["finish_reason"]]
    assert ended
    assert len(ended) < len(rows) == run.manifest["tables"]["requests"]
    assert run.manifest["counts"]["unfinished"] == len(rows) - len(ended)
    assert len(rows_of(run, "steps")) == run.manifest["counts"]["steps"] > 0
    str(run)


# -- Ctrl-C ---------------------------------------------------------------------------------------


def interrupt_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the device works on its so many-th step."""
    step_ns, seen = RooflineLatency.step_ns, 0

    def interrupted(self: RooflineLatency, shape: StepShape) -> int:
        nonlocal seen
        seen += 1
        if seen > steps:
            raise KeyboardInterrupt
        return step_ns(self, shape)

    monkeypatch.setattr(RooflineLatency, "step_ns", interrupted)


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("steps", [0, 1, 2, 40])
def test_what_ctrl_c_cuts_short_is_a_prefix_of_the_whole_run(
    steps: int, overlap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = f"policy.overlap={overlap}"
    records = ("requests", "steps", "tokens", "decisions")
    whole = simulate(WORK, settings=[setting], records=records)
    interrupt_after(steps, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        simulate(WORK, settings=[setting], records=records, out=tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.status == "interrupted"
    kept = rows_of(run, "steps")
    assert kept == rows_of(whole, "steps")[: len(kept)]
    in_flight = steps - len(kept)
    assert in_flight in ((0, 1) if overlap == "overlapped" else (0,))
    logged = rows_of(run, "decisions")
    assert logged == rows_of(whole, "decisions")[: len(logged)]
    full = {row["id"]: row for row in rows_of(whole, "requests")}
    for row in rows_of(run, "requests"):
        times = row["token_times_ns"]
        assert len(times) == row["output_tokens"]
        assert times == full[row["id"]]["token_times_ns"][: len(times)]
        if row["finish_reason"]:
            assert row == full[row["id"]]
        else:
            assert row["finish_ns"] is None
    str(run)
    run.summary()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_a_real_ctrl_c_leaves_a_run_that_can_be_read(tmp_path: Path) -> None:
    """Wherever in the program the signal falls."""
    program = (
        "import sys; from simulator import simulate; print('ready', flush=True); "
        "simulate('mooncake-conversation', out=sys.argv[1])"
    )
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", program, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdout is not None
    process.stdout.readline()
    while not (folder / "manifest.json").exists():
        time.sleep(0.01)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in errors
    run = load_run(folder)
    assert run.status == "interrupted"
    counts = run.manifest["counts"]
    ended = [row for row in rows_of(run, "requests") if row["finish_reason"]]
    assert len(ended) == counts["finished"] + counts["refused"]
    assert run.arrow("steps").num_rows == counts["steps"] > 0
