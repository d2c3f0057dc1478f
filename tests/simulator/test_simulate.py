"""`simulate` from Python: what it takes, what it returns, and a policy written in a notebook cell."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from policies.config import ConfigError
from simulator import SimulatorConfig, simulate
from simulator.world import World
from tests.simulator.checks import rows_of
from tests.simulator.harness import MS, crowd
from traces import load_run, write_native
from traces.errors import TraceError
from traces.generate import generate, generate_stream
from traces.records import RecordError

if TYPE_CHECKING:
    from traces import Run

ROOT = Path(__file__).resolve().parents[2]
WORK = crowd(9, 50, 20 * MS, prompt=300, output=20)


def requests(run: Run) -> list[dict[str, Any]]:
    return rows_of(run, "requests")


def test_a_stream_is_simulated_as_the_same_requests_in_a_workload_are() -> None:
    whole = simulate(generate("azure-conversation", n=200, rate=5.5))
    streamed = simulate(generate_stream("azure-conversation", n=200, rate=5.5))
    for table in ("requests", "steps"):
        assert streamed.arrow(table).equals(whole.arrow(table))
    assert streamed.manifest["workload"] == whole.manifest["workload"]


def test_a_simulation_leaves_no_world_in_memory_and_the_collector_as_it_was() -> None:
    def state() -> tuple[object, ...]:
        worlds = sum(type(thing) is World for thing in gc.get_objects())
        return worlds, gc.get_threshold(), gc.get_freeze_count(), gc.isenabled()

    gc.collect()
    before = state()
    gc.disable()  # nothing else is to collect it
    try:
        run = simulate(WORK)
    finally:
        gc.enable()
    assert state() == before
    assert run.status == "complete"


def test_what_a_stream_cannot_do_is_named() -> None:
    with pytest.raises(ValueError, match="no limit and no speedup"):
        simulate(generate_stream("azure-conversation", n=9), limit=3)
    with pytest.raises(ConfigError, match="open loop"):
        simulate(generate_stream("azure-conversation", n=9), settings=["workload.concurrency=2"])
    with pytest.raises(ValueError, match="waits for another"):
        simulate(generate_stream("weka-agents", n=9))
    stream = generate_stream("azure-conversation", n=9)
    simulate(stream)
    with pytest.raises(ValueError, match="sent before"):
        simulate(stream)


def test_everything_may_be_left_out_but_a_limit_keeps_it_short() -> None:
    run = simulate(limit=20)
    assert run.status == "complete"
    assert len(requests(run)) == 20
    hardware = run.manifest["hardware"]
    assert "H200" in hardware["device"]
    assert "Qwen3-8B" in hardware["model"]
    assert run.manifest["config"]["policy"]["order"] == "fcfs"


def test_a_workload_a_preset_and_a_file_are_all_taken(tmp_path: Path) -> None:
    here = simulate(WORK)
    path = tmp_path / "trace.jsonl.gz"
    write_native(WORK, path)
    assert requests(simulate(path)) == requests(simulate(str(path))) == requests(here)
    generated = simulate("azure-conversation", limit=10)
    assert len(requests(generated)) == 10


def test_what_is_neither_a_preset_nor_a_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="mooncake-conversatoin"):
        simulate("mooncake-conversatoin")
    with pytest.raises(TraceError):
        simulate(tmp_path / "missing.jsonl")


@pytest.mark.parametrize("form", ["mapping", "config", "yaml", "settings", "both"])
def test_a_config_may_come_in_every_form(form: str, tmp_path: Path) -> None:
    data = {"policy": {"order": "lpm", "page_size": 16}, "kv": {"capacity_tokens": 4096}}
    settings = ["policy.order=lpm", "policy.page_size=16", "kv.capacity_tokens=4096"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    run = {
        "mapping": lambda: simulate(WORK, data),
        "config": lambda: simulate(WORK, SimulatorConfig.model_validate(data)),
        "yaml": lambda: simulate(WORK, path),
        "settings": lambda: simulate(WORK, settings=settings),
        "both": lambda: simulate(WORK, {**data, "policy": {"page_size": 4}}, settings=settings),
    }[form]()
    config = run.manifest["config"]
    assert (config["policy"]["order"], config["policy"]["page_size"]) == ("lpm", 16)
    assert run.manifest["kv_capacity_tokens"] == 4096
    # what is written down is enough to make the run again
    again = simulate(WORK, config)
    assert requests(again) == requests(run)
    assert again.manifest == run.manifest


def test_settings_go_over_a_config_object_without_changing_it() -> None:
    config = SimulatorConfig()
    run = simulate(WORK, config, settings=["policy.order=lof"])
    assert run.manifest["config"]["policy"]["order"] == "lof"
    assert config.policy.order == "fcfs"


def test_errors_of_a_config_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("policy: {order: best}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: .*unknown queue order 'best'"):
        simulate(WORK, path)
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        simulate(WORK, tmp_path / "nowhere.yaml")


def test_limit_and_speedup_change_what_is_served() -> None:
    run = simulate(WORK, limit=10, speedup=2.0)
    rows = requests(run)
    assert {row["id"] for row in rows} == {request.id for request in WORK.requests[:10]}
    halves = [round(request.arrival_ns / 2) for request in WORK.requests[:10]]
    assert sorted(row["arrival_ns"] for row in rows) == pytest.approx(halves, abs=1)
    with pytest.raises(ValueError, match="speedup must be a positive number"):
        simulate(WORK, speedup=0)


def test_a_run_shows_itself_as_a_table() -> None:
    run = simulate(WORK)
    text, html = str(run), run._repr_html_()
    for name in ("requests/s", "TTFT", "TPOT", "ITL", "end-to-end", "p99", "cache hit ratio"):
        assert name in text
        assert name in html
    assert "complete" in repr(run)
    assert run.summary().finished == len(WORK) == len(run.requests)


def test_a_folder_holds_the_run_and_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    run = simulate(WORK, out=tmp_path / "run")
    assert requests(load_run(tmp_path / "run")) == requests(simulate(WORK)) == requests(run)
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    with pytest.raises(RecordError, match="already holds a run"):
        simulate(WORK, out=tmp_path / "run", settings=["policy.order=lof"])
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before
    simulate(WORK, out=tmp_path / "run", settings=["policy.order=lof"], overwrite=True)
    assert load_run(tmp_path / "run").manifest["config"]["policy"]["order"] == "lof"


def test_records_say_what_is_kept() -> None:
    assert not simulate(WORK, records=["requests"]).has("steps")
    with pytest.raises(RecordError, match="unknown records everything: known are requests"):
        simulate(WORK, records=["everything"])


CELLS = """
from simulator import simulate
from policies import ORDERS, KeyOrder

@ORDERS.register("longest-first")
class LongestFirst(KeyOrder):
    def __init__(self, tie: int = 0) -> None:
        self.tie = tie
    def key(self, request, view):
        return (-request.prompt_len, self.tie)

run = simulate("azure-conversation", {"policy": {"order": "longest-first"}}, limit=30)
again = simulate(
    "azure-conversation",
    settings=["policy.order=longest-first", "policy.order_options={tie: 3}"],
    limit=30,
)
import json
print(json.dumps([run.status, run.manifest["config"]["policy"]["order"], run.summary().finished]))
"""


def test_a_policy_defined_in_a_cell_is_known_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CELLS], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert json.loads(done.stdout) == ["complete", "longest-first", 30]


def test_a_policys_options_are_checked_before_anything_runs(tmp_path: Path) -> None:
    settings = ["policy.order=lpm", "policy.order_options={fallback_queue: many}"]
    with pytest.raises(ConfigError, match="option 'fallback_queue' of queue order 'lpm' cannot"):
        simulate(WORK, settings=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_concurrency_in_an_open_loop_is_an_error() -> None:
    config = {"workload": {"loop": "open", "concurrency": 4}}
    with pytest.raises(ConfigError, match=r"concurrency is 4, but workload\.loop is open"):
        simulate("azure-conversation", config, limit=5)
