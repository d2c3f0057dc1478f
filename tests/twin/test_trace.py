"""`twin trace`: what a workload holds, and workloads as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from traces import read_trace

MOONCAKE = (
    Path(__file__).resolve().parents[2].parent
    / "shared"
    / "traces"
    / "mooncake"
    / "conversation_trace.jsonl.gz"
)


def test_a_generated_trace_is_the_same_each_time_and_reads_back(twin):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        made = twin(
            *("trace", "generate", "--preset", "mooncake-conversation", "--n", 20),
            *("--rate", 2, "--seed", 3, "--out", name),
        )
        assert made.exit_code == 0
        assert f"{name}: 20 requests over" in made.stdout
    assert Path("a.jsonl.gz").read_bytes() == Path("b.jsonl.gz").read_bytes()
    assert len(read_trace("a.jsonl.gz")) == 20


def test_a_file_is_not_written_over_by_accident(twin, tmp_path):
    (tmp_path / "mine.jsonl").write_text("precious", encoding="utf-8")
    make = ("trace", "generate", "--preset", "azure-conversation", "--n", 2, "--out", "mine.jsonl")
    assert "mine.jsonl exists" in twin(*make).stderr
    assert (tmp_path / "mine.jsonl").read_text(encoding="utf-8") == "precious"
    assert twin(*make, "--overwrite").exit_code == 0
    assert len(read_trace(tmp_path / "mine.jsonl")) == 2


def test_inspect_says_the_same_of_a_preset_and_of_its_file(twin):
    twin(*("trace", "generate", "--preset", "mooncake-conversation"), "--n", 30, "--out", "m.jsonl")
    options = ("--limit", 30, "--json")
    preset = json.loads(twin("trace", "inspect", "mooncake-conversation", *options).stdout)
    file = json.loads(twin("trace", "inspect", "m.jsonl", *options).stdout)
    assert file == preset
    assert file["requests"] == 30
    assert "token hit ratio, endless cache" in twin("trace", "inspect", "m.jsonl").stdout


def test_presets_are_listed_with_their_source_and_licence(twin):
    listed = twin("trace", "presets").stdout
    for text in ("mooncake-conversation", "Apache-2.0", "azure-conversation", "CC-BY"):
        assert text in listed


@pytest.mark.skipif(not MOONCAKE.exists(), reason="needs the Mooncake conversation trace")
def test_the_mooncake_trace_has_its_published_hit_ratios(twin):
    values = json.loads(twin("trace", "inspect", MOONCAKE, "--json").stdout)
    assert values["requests"] == 12_031
    assert round(values["endless_hit_ratio"], 4) == 0.3736
    ratios = [round(ratio, 3) for ratio in values["lru_hit_ratio"].values()]
    assert ratios == [0.045, 0.067, 0.216, 0.332, 0.371]
