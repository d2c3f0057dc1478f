"""`twin simulate` and `twin compare`: what they write and print, and what they say when it fails."""

from __future__ import annotations

import gzip
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from traces.records.run import load_run

TWIN = (sys.executable, "-m", "twin")

BAD_ORDER = """
from policies import ORDERS, QueueOrder

@ORDERS.register("broken")
class Broken(QueueOrder):
    def arrange(self, waiting, view):
        return sorted(waiting, key=lambda request: request.nothing)

@ORDERS.register("forgetful")
class Forgetful(QueueOrder):
    def arrange(self, waiting, view):
        return []
"""


def test_a_trace_needs_nothing_else(twin, trace):
    result = twin("simulate", "--trace", trace)
    assert result.exit_code == 0
    assert "TTFT (ms)" in result.stdout
    run = load_run("runs/mooncake-conversation-fcfs")
    assert run.status == "complete"
    assert len(run.requests) == 12
    assert "run: runs/mooncake-conversation-fcfs" in result.stderr


def test_a_second_run_never_goes_over_the_first(twin, trace):
    first = twin("simulate", "--trace", trace)
    second = twin("simulate", "--trace", trace)
    assert "runs/mooncake-conversation-fcfs-2" in second.stderr
    named = twin("simulate", "--trace", trace, "--out", "runs/mooncake-conversation-fcfs")
    assert named.exit_code == 2
    assert "already holds a run" in named.stderr
    again = ("--out", "runs/mooncake-conversation-fcfs", "--overwrite")
    assert twin("simulate", "--trace", trace, *again).exit_code == 0
    assert first.exit_code == second.exit_code == 0


def test_what_is_no_run_is_left_alone(twin, trace, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious", encoding="utf-8")
    result = twin("simulate", "--trace", trace, "--out", "thesis", "--overwrite")
    assert result.exit_code == 2
    assert "holds no run, so it is left alone" in result.stderr
    assert (tmp_path / "thesis" / "chapter.txt").read_text(encoding="utf-8") == "precious"


def test_json_is_all_that_stdout_gets(twin, trace):
    result = twin("simulate", "--trace", trace, "--out", "a", "--json")
    values = json.loads(result.stdout)
    assert values["run"] == "a"
    assert values["status"] == "complete"
    assert values["finished"] == 12
    assert values["ttft_ms"]["p99"] >= values["ttft_ms"]["p50"] > 0


def test_limit_speedup_seed_and_records_reach_the_run(twin, trace):
    options = ("--limit", 5, "--speedup", 2, "--seed", 9, "--records", "decisions")
    twin("simulate", "--trace", trace, "--out", "a", *options)
    run = load_run("a")
    assert run.manifest["workload"]["requests"] == len(run.requests) == 5
    assert run.manifest["workload"]["speedup"] == 2
    assert run.manifest["seed"] == 9
    assert not run.has("steps")
    assert len(run.tokens) == 5


def test_the_same_command_writes_the_same_bytes(twin, trace):
    for out in ("a", "b"):
        twin("simulate", "--trace", trace, "--out", out, "--records", "requests,steps,tokens")
    for name in ("manifest.json", "requests.parquet", "steps.parquet"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_bad_rows_that_are_left_out_are_counted(twin, trace, tmp_path):
    lines = trace.read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3].replace('"arrival_ns":', '"arrival_ns":-')
    (tmp_path / "bad.jsonl").write_text("\n".join(lines), encoding="utf-8")
    refused = twin("simulate", "--trace", "bad.jsonl", "--out", "a")
    assert refused.exit_code == 2
    assert "bad.jsonl, line 4: field 'arrival_ns': found -" in refused.stderr
    skipped = twin("simulate", "--trace", "bad.jsonl", "--out", "a", "--skip-bad-rows")
    assert skipped.exit_code == 0
    assert "bad.jsonl: 1 bad rows left out" in skipped.stderr
    assert "line 4" in skipped.stderr
    assert len(load_run("a").requests) == 11


def test_an_empty_and_a_truncated_trace_are_errors(twin, trace, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    assert "an empty file" in twin("simulate", "--trace", "empty.jsonl").stderr
    whole = gzip.compress(trace.read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    result = twin("simulate", "--trace", "cut.jsonl.gz")
    assert result.exit_code == 2
    assert "in the middle of its gzip data" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_strict_makes_a_refusal_an_error_and_keeps_the_records(twin, trace):
    small = ("--trace", trace, "--set", "kv.capacity_tokens=2000")
    relaxed = twin("simulate", *small, "--out", "a", "--json")
    assert json.loads(relaxed.stdout)["refused"] > 0
    strict = twin("simulate", *small, "--out", "b", "--strict")
    assert strict.exit_code == 1
    assert "was refused: the prompt has" in strict.stderr
    assert load_run("b").status.startswith("failed: RefusedError")


@pytest.mark.usefixtures("own_orders")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    pass", "in key: NotImplementedError: its class has to define this"),
        ("    key = lambda self, request, view: None", "in arrange: TypeError: '<' not supported"),
    ],
)
def test_what_fails_in_the_base_class_of_ones_own_policy_is_said_of_it(
    twin, trace, tmp_path, body, says
):
    head = "from policies import ORDERS, KeyOrder\n\n@ORDERS.register('mine')\n"
    (tmp_path / "mine.py").write_text(f"{head}class Mine(KeyOrder):\n{body}\n", encoding="utf-8")
    busy = ("--trace", trace, "--speedup", 1000, "--set", "policy.order=mine")
    result = twin("simulate", "--policy", "mine.py", *busy, "--out", "a")
    assert result.exit_code == 1
    assert "mine.py, class Mine, " in result.stderr
    assert says in result.stderr


@pytest.mark.usefixtures("own_orders")
def test_a_fault_in_ones_own_policy_is_named_with_its_line(twin, trace, tmp_path):
    (tmp_path / "broken.py").write_text(BAD_ORDER, encoding="utf-8")
    own = ("simulate", "--trace", trace, "--policy", "broken.py", "--out", "a", "--overwrite")
    result = twin(*own, "--set", "policy.order=broken")
    assert result.exit_code == 1
    assert "broken.py, line 7, in <lambda>: AttributeError" in result.stderr
    assert load_run("a").status.startswith("failed: AttributeError")
    lost = twin(*own, "--set", "policy.order=forgetful")
    assert lost.exit_code == 1
    assert "'forgetful'" in lost.stderr


def test_a_policy_file_that_cannot_be_imported_is_named_with_its_line(twin, trace, tmp_path):
    (tmp_path / "typo.py").write_text("x = 1\ny = (\n", encoding="utf-8")
    (tmp_path / "zero.py").write_text("x = 1\ny = x / 0\n", encoding="utf-8")
    for name, says in (("typo.py", "line 2: SyntaxError"), ("zero.py", "line 2: ZeroDivision")):
        result = twin("simulate", "--trace", trace, "--policy", name)
        assert result.exit_code == 2
        assert f"--policy {name}, {says}" in result.stderr


def test_a_module_beside_one_can_be_imported(twin, trace, tmp_path, own_orders, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = BAD_ORDER.replace("request.nothing", "request.prompt_len")
    (tmp_path / "orders_of_mine.py").write_text(text, encoding="utf-8")
    own = ("--import", "orders_of_mine", "--set", "policy.order=broken")
    assert twin("simulate", "--trace", trace, *own, "--out", "a").exit_code == 0
    sys.modules.pop("orders_of_mine")


def test_compare_lays_runs_side_by_side(twin, trace):
    for name, order in (("a", "fcfs"), ("b", "lof")):
        twin("simulate", "--trace", trace, "--out", name, "--set", f"policy.order={order}")
    result = twin("compare", "a", "b", "--names", "first, second", "--plots", "pictures")
    assert result.exit_code == 0
    assert "first" in result.stdout
    assert "second" in result.stdout
    assert "Mean difference to first" in result.stdout
    assert {path.name for path in Path("pictures").iterdir()} >= {"latency.png", "kv_use.png"}
    values = json.loads(twin("compare", "a", "b", "--json").stdout)
    assert [run["name"] for run in values["runs"]] == ["a", "b"]
    alone = twin("compare", "a")
    assert "TTFT" in alone.stdout
    assert "Mean difference" not in alone.stdout
    misnamed = twin("compare", "a", "b", "--names", "one")
    assert misnamed.exit_code == 2
    assert "2 runs need as many different names" in misnamed.stderr


def test_ctrl_c_keeps_what_was_recorded_and_says_so(tmp_path, wait_for):
    command = (*TWIN, "simulate", "--workload", "azure-conversation", "--no-leap", "--out", "run")
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(tmp_path / "run" / "manifest.json")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    run = load_run(tmp_path / "run")
    assert run.status == "interrupted"
    ended = int(run.requests["finish_reason"].notna().sum())
    assert f"{ended:,} ended requests" in err
    assert f"{len(run.steps):,} steps are kept in run" in err
    assert len(run.steps) > 0


def test_a_full_disk_is_an_error_and_leaves_a_run_that_can_be_read(tmp_path):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, 8_192))

    command = (*TWIN, "simulate", "--workload", "azure-conversation", "--limit", "200")
    done = subprocess.run(
        (*command, "--out", "run"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=small_files,
    )
    assert done.returncode == 1
    assert "cannot write run/" in done.stderr
    assert "Traceback" not in done.stderr
    assert load_run(tmp_path / "run").status.startswith("failed: ")
