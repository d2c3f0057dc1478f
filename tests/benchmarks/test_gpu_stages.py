"""The measurements for a GPU: every stage's logic runs with a tiny model, and stages can be resumed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.rates import prefill_operations, weight_bytes
from benchmarks.gpu.stages import STAGES, find
from benchmarks.gpu.steps import WARM_UP, StepTime, decode_figures
from benchmarks.gpu.suite import marked_files, read_report
from benchmarks.gpu.tiny import CONFIG, tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUICK = [stage.name for stage in STAGES if stage.name not in {"peer", "suite"}]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def figures_of(stage: str, folder: Path) -> dict[str, Any]:
    command.run_stage(stage, folder, tiny=True)
    found = json.loads((folder / f"{stage}.json").read_text(encoding="utf-8"))
    assert found["status"] == "complete"
    assert not list(folder.glob("*.partial.json"))
    figures: dict[str, Any] = found["figures"]
    return figures


@pytest.mark.parametrize("stage", QUICK)
def test_a_stage_writes_its_figures(stage: str, tmp_path: Path) -> None:
    assert figures_of(stage, tmp_path)


def test_rates_are_shares_of_the_ceilings_measured_before(tmp_path: Path) -> None:
    limits = {"copy_bytes_per_s": 1e9, "matmul_flop_per_s": {"one": 1e9, "another": 2e9}}
    (tmp_path / "ceilings.json").write_text(json.dumps({"figures": limits}), encoding="utf-8")
    figures = figures_of("rates", tmp_path)
    decode, prefill = figures["decode, 4"], figures["prefill, 128"]
    assert decode["share_of_bound"] == pytest.approx(decode["bound_us"] / decode["step_us"])
    assert prefill["share_of_matmul"] == pytest.approx(prefill["flop_per_s"] / 2e9)


def test_the_sweep_holds_every_kind_of_step_and_keeps_whole_runs(tmp_path: Path) -> None:
    figures = figures_of("sweep", tmp_path)
    assert set(figures["even"]["steps"]) >= {"extend", "decode"}
    assert "mixed" in figures["mixed-large"]["steps"]
    manifest = tmp_path / "sweep" / "even" / "manifest.json"
    written = manifest.stat().st_mtime_ns
    assert figures_of("sweep", tmp_path) == figures
    assert manifest.stat().st_mtime_ns == written


@pytest.mark.slow
def test_transformers_answers_the_same_requests(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with torch.random.fork_rng():
        figures = figures_of("peer", tmp_path)
    assert figures["transformers"]["equal"]["output_tokens_per_s"] > 0
    assert figures["schedtwin"]["equal"]["output_tokens_per_s"] > 0


@pytest.mark.slow
def test_the_tests_are_run_and_counted(tmp_path: Path) -> None:
    figures = figures_of("suite", tmp_path)
    assert figures["passed"] > 0
    assert figures["failed"] == 0


def test_a_report_names_what_failed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="fine"/>'
        '<testcase classname="a" name="bad"><failure message="no"/></testcase>'
        '<testcase classname="a" name="absent"><skipped message="no wheel"/></testcase>'
        "</testsuite></testsuites>",
        encoding="utf-8",
    )
    found = read_report(report)
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 1, 1)
    assert found["failures"] == {"a::bad": "no"}
    assert found["skips"] == {"a::absent": "no wheel"}


def test_marked_files_have_the_marker() -> None:
    assert "tests/runtime/attention/test_attention_on_gpu.py" in marked_files()


def test_a_gap_is_what_lies_between_full_decode_steps() -> None:
    def step(number: int, decode: int = 2, prefill: int = 0) -> StepTime:
        return StepTime(prefill, 5 * prefill, decode, 1000 * number, 1000 * number + 900)

    steps = [step(0, prefill=1), *(step(i) for i in range(1, WARM_UP + 4)), step(90, decode=1)]
    assert decode_figures(steps, 2) == {
        "steps": 2,
        "step_us": 1.0,
        "device_us": 0.9,
        "gap_us": 0.1,
        "gap_share": 0.1,
    }
    with pytest.raises(ValueError, match="decode steps of 3 requests"):
        decode_figures(steps, 3)


def test_work_is_counted_without_the_lookup_table(tmp_path: Path) -> None:
    model = tiny_model(tmp_path).model
    hidden, inner, vocab = (CONFIG[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    layers, heads, size = CONFIG["num_hidden_layers"], CONFIG["num_attention_heads"], 16
    matrices = layers * (hidden * (heads + 4) * size + heads * size * hidden + 3 * hidden * inner)
    norms = layers * 2 * (hidden + size) + hidden
    assert weight_bytes(model) == 4 * (matrices + norms + vocab * hidden)
    pairs = 10 * 11 // 2
    attention = 4 * pairs * heads * size * layers
    expected = 2 * 10 * (matrices + norms) + attention + 2 * vocab * hidden
    assert prefill_operations(model, 10) == expected


# -- the command ------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_what_it_would_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "gpu_name", lambda: (None, "no driver"))
    assert command.main([]) == 0
    said = capsys.readouterr().out
    assert "no driver" in said
    assert all(stage.name in said for stage in STAGES)


def test_an_unknown_stage_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown stage 'warp'; known: ceilings, suite"):
        find(["warp"])


def test_a_stage_that_is_there_is_skipped_and_one_without_time_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def started(told: list[str], _seconds: float) -> int:
        begun.append(told[told.index("--inside") + 1])
        return 0

    monkeypatch.setattr(
        command,
        "run_for",
        started,
    )
    (tmp_path / "ceilings.json").write_text("{}", encoding="utf-8")
    stages = find(["ceilings", "backends", "sweep"])
    assert command.run_all(stages, tmp_path, 3.0, again=False, tiny=False) == []
    assert begun == ["backends"]
    said = capsys.readouterr().out
    assert "ceilings: is there already" in said
    assert "sweep: left out" in said
    command.run_all(find(["ceilings"]), tmp_path, 3.0, again=True, tiny=False)
    assert begun == ["backends", "ceilings"]


def test_a_stage_that_hangs_or_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    import sys

    assert command.run_for([sys.executable, "-c", "import time; time.sleep(60)"], 0.2) is None
    assert command.run_for([sys.executable, "-c", "raise SystemExit(3)"], 60) == 3
