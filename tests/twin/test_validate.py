"""`twin validate`: a real run beside its simulation, in a table, pictures and JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "gpu" / "llmservingsim"
EXAMPLES = SHARED / "bench" / "examples"
PERF = SHARED / "profiler" / "perf"
needs_examples = pytest.mark.skipif(not EXAMPLES.exists(), reason="the benchmark runs are not here")


def served(twin, trace, name: str, *settings: str) -> str:
    more = [word for setting in settings for word in ("--set", setting)]
    result = twin(
        *("simulate", "--trace", trace, "--out", name, "--records", "requests,steps,decisions"),
        *("--preset", "vllm", *more),
    )
    assert result.exit_code == 0
    return name


def test_a_run_of_the_simulator_has_no_error_against_itself(twin, trace):
    served(twin, trace, "one")
    result = twin("validate", "one", "--out", "checked")
    assert result.exit_code == 0
    assert "TTFT mean" in result.stdout
    assert "+0.00 %" in result.stdout
    assert not re.search(r"\d%", result.stdout)
    made = json.loads(Path("checked/validation.json").read_text())
    assert [row["error"] for row in made["runs"][0]["figures"]] == pytest.approx(
        [0] * len(made["runs"][0]["figures"])
    )
    for name in ("latencies", "requests", "over_time", "budget"):
        assert Path(f"checked/{name}.png").stat().st_size > 5_000
    again = twin("validate", "one", "--out", "checked")
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr


def test_a_folder_for_nothing_is_not_left(twin, trace):
    served(twin, trace, "one")
    Path("mine").mkdir()
    for folder in ("checked", "mine"):
        result = twin("validate", "one", "--out", folder, "--set", "policy.order=nope")
        assert result.exit_code == 2
        assert "policy.order: unknown queue order 'nope'" in result.stderr
    assert not Path("checked").exists()
    assert Path("mine").exists()  # it was there before


def test_a_run_whose_records_do_not_reach_equally_far_is_taken_as_far_as_all_do(twin, trace):
    served(twin, trace, "one")
    log = pq.read_table("one/decisions.parquet")
    pq.write_table(log.slice(0, log.num_rows // 2), "one/decisions.parquet")
    result = twin("validate", "one", "--no-budget", "--no-plot", "--out", "checked")
    assert result.exit_code == 0
    assert "requests that ended are not in the decision log" in result.stdout
    pq.write_table(log.slice(0, 0), "one/decisions.parquet")
    result = twin("validate", "one", "--out", "again")
    assert result.exit_code == 2
    assert "found no request that ended in its decision log" in result.stderr
    result = twin("verify", "one")
    assert result.exit_code == 2
    assert "its decision log is empty: there is nothing to take again" in result.stderr


def test_what_is_set_otherwise_shows(twin, trace):
    served(twin, trace, "one")
    made = json.loads(
        twin(
            *("validate", "one", "--set", "device.name=a100", "--no-budget", "--no-plot"),
            *("--json", "--out", "checked"),
        ).stdout
    )
    errors = {(r["metric"], r["statistic"]): r["error"] for r in made["runs"][0]["figures"]}
    assert errors["tpot", "mean"] > 0.2
    assert made["budget"] is None
    assert any("nothing was measured" in note for note in made["runs"][0]["notes"])


def test_repeats_and_another_policy(twin, trace):
    one, two = served(twin, trace, "one"), served(twin, trace, "two")
    other = served(twin, trace, "other", "policy.max_running_requests=1")
    result = twin("validate", one, two, "--other", other, "--no-budget", "--out", "checked")
    assert result.exit_code == 0
    made = json.loads(Path("checked/validation.json").read_text())
    assert all(s["spread"] == 0 and s["within"] for s in made["spread"])
    # twelve requests are too few for an interval
    assert {a["verdict"] for a in made["answers"]} == {"nothing to hold"}
    assert all(
        a["real"]["mean_ms"] == pytest.approx(a["simulated"]["mean_ms"]) for a in made["answers"]
    )


def test_a_repeat_that_was_cut_short_is_no_repeat(twin, trace):
    for name in ("one", "two"):
        served(twin, trace, name)
    table = pq.read_table("two/requests.parquet")
    pq.write_table(table.slice(1), "two/requests.parquet")
    result = twin("validate", "one", "two", "--out", "checked")
    assert result.exit_code == 2
    assert "two is no repeat of one: it did not answer request" in result.stderr
    again = twin("validate", "one", "one", "--out", "checked")
    assert again.exit_code == 2
    assert "one is given twice" in again.stderr
    assert not Path("checked").exists()


def test_a_bench_result_needs_a_device(twin):
    Path("result.json").write_text(
        json.dumps(
            {
                "model_id": "Qwen/Qwen3-8B",
                "max_concurrency": 2,
                "duration": 1.0,
                "completed": 2,
                "request_rate": "inf",
                "input_lens": [100, 200],
                "output_lens": [5, 5],
                "ttfts": [0.1, 0.1],
                "itls": [[0.01] * 4, [0.01] * 4],
            }
        )
    )
    refused = twin("validate", "result.json")
    assert refused.exit_code == 2
    assert "--device" in refused.stderr
    result = twin("validate", "result.json", "--device", "h200", "--out", "checked")
    assert result.exit_code == 0
    assert "when requests were sent was not recorded" in result.stdout
    assert "not known: steps were not recorded" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "no such file or folder"),
        (("one", "--profile", "nowhere.json"), "nowhere.json"),
        (("one", "--link", "fast"), "expected microseconds"),
        (("one", "--set", "policy.order=best"), "best"),
    ],
)
def test_bad_input_is_named(twin, trace, arguments, said):
    served(twin, trace, "one")
    result = twin("validate", *arguments, "--out", "checked")
    assert result.exit_code == 2
    assert said in result.stderr


@needs_examples
def test_vllm_on_an_rtx_4090_from_its_profile(twin):
    result = twin(
        *("validate", EXAMPLES / "RTX4090" / "Llama-3.1-8B", "--out", "checked", "--no-budget"),
        *("--profile", PERF / "RTX4090" / "meta-llama" / "Llama-3.1-8B" / "bf16", "--no-plot"),
    )
    assert result.exit_code == 0
    made = json.loads(Path("checked/validation.json").read_text())
    errors = {(r["metric"], r["statistic"]): r["error"] for r in made["runs"][0]["figures"]}
    assert abs(errors["ttft", "mean"]) < 0.03
    assert abs(errors["tpot", "mean"]) < 0.012  # the goal is 0.01: see docs/fidelity.md
    assert abs(errors["e2e", "mean"]) < 0.015
    assert all(abs(errors[m, "p99"]) < 0.03 for m in ("ttft", "tpot", "e2e"))
    assert Path("checked/profile.json").exists()
