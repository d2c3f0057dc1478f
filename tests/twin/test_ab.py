"""`twin ab`: variants in processes of their own, and the comparison."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from traces.records.run import load_run

ORDER = """
from policies import ORDERS, KeyOrder

@ORDERS.register("longest")
class Longest(KeyOrder):
    def key(self, request, view):
        return -request.prompt_len
"""


def test_each_order_gets_a_run_and_all_are_compared(twin, trace):
    result = twin("ab", "--trace", trace, "--order", "fcfs", "--order", "lpm", "--out", "cmp")
    assert result.exit_code == 0
    for order in ("fcfs", "lpm"):
        run = load_run(f"cmp/{order}")
        assert run.status == "complete"
        assert run.manifest["config"]["policy"]["order"] == order
    assert "Mean difference to fcfs" in result.stdout
    assert Path("cmp/comparison.txt").read_text(encoding="utf-8").strip() == result.stdout.strip()
    assert "plot: cmp/plots/latency.png" in result.stderr
    assert Path("cmp/plots/latency.png").stat().st_size > 0


def test_a_variant_is_what_simulate_makes_of_it(twin, trace):
    """A child process makes the same bytes as this one."""
    twin("ab", "--trace", trace, "--vary", "policy.page_size=1,16", "--out", "cmp", "--jobs", 1)
    twin("simulate", "--trace", trace, "--set", "policy.page_size=16", "--out", "alone")
    for name in ("requests.parquet", "steps.parquet"):
        assert Path("cmp/page_size=16", name).read_bytes() == Path("alone", name).read_bytes()


def test_what_is_varied_is_combined(twin, trace):
    vary = ("--vary", "policy.batching=prefill-first,static", "--vary", "policy.page_size=1,16")
    result = twin("ab", "--trace", trace, "--limit", 3, *vary, "--out", "cmp", "--json")
    names = [run["name"] for run in json.loads(result.stdout)["runs"]]
    assert names == [
        f"batching={batching},page_size={page}"
        for batching in ("prefill-first", "static")
        for page in (1, 16)
    ]


def test_every_variant_is_checked_before_one_is_run(twin, trace, tmp_path):
    result = twin("ab", "--trace", trace, "--vary", "policy.page_size=1,0", "--out", "cmp")
    assert result.exit_code == 2
    assert "policy.page_size" in result.stderr
    twice = twin("ab", "--trace", trace, "--order", "lpm", "--order", "lpm", "--out", "cmp")
    assert twice.exit_code == 2
    assert "the variant lpm is there twice" in twice.stderr
    for axes in (("--order", "lpm"), ("--vary", "policy.order=lpm,lof")):
        both = twin(
            "ab", "--trace", trace, *axes, "--vary", "policy.order=fcfs,lpm", "--out", "cmp"
        )
        assert both.exit_code == 2
        assert "policy.order is varied twice" in both.stderr
    assert not (tmp_path / "cmp").exists()


@pytest.mark.usefixtures("own_orders")
def test_orders_of_ones_own_are_known_in_the_children(twin, trace, tmp_path):
    (tmp_path / "longest.py").write_text(ORDER, encoding="utf-8")
    orders = ("--policy", "longest.py", "--order", "fcfs", "--order", "longest")
    result = twin("ab", "--trace", trace, *orders, "--out", "cmp")
    assert result.exit_code == 0
    assert load_run("cmp/longest").status == "complete"


@pytest.mark.parametrize("strict", [False, True])
def test_a_run_that_fails_is_named(twin, trace, strict):
    small = ("--set", "kv.capacity_tokens=2000", *(["--strict"] if strict else []))
    result = twin("ab", "--trace", trace, "--order", "fcfs", "--order", "lpm", "--out", "c", *small)
    if strict:
        assert result.exit_code == 1
        assert "was refused" in result.stderr
        assert result.stderr.split(": ")[1] in ("fcfs", "lpm")
    else:
        assert result.exit_code == 0


def test_ctrl_c_stops_every_run_and_each_keeps_its_records(tmp_path, wait_for):
    orders = ("--order", "fcfs", "--order", "lof", "--order", "lpm", "--jobs", "2")
    command = (sys.executable, "-m", "twin", "ab", "--workload", "azure-conversation", *orders)
    with subprocess.Popen(
        (*command, "--out", "cmp"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for(*(tmp_path / "cmp" / order / "manifest.json" for order in ("fcfs", "lof")))
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "fcfs, lof: what was recorded is kept in cmp/fcfs, cmp/lof" in err
    for order in ("fcfs", "lof"):
        assert load_run(tmp_path / "cmp" / order).status == "interrupted"
    assert not (tmp_path / "cmp" / "lpm").exists()
