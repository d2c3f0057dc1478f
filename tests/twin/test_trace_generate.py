"""`twin trace generate` and `inspect`: descriptions, settings, and traces side by side."""

from __future__ import annotations

import json

import pytest
import yaml

from traces import read_trace
from traces.generate import WorkloadSpec, preset

SPEC = {
    "name": "mine",
    "n": 40,
    "arrivals": {"kind": "gamma", "shape": 0.5, "rate": 4},
    "lengths": {"input": {"kind": "lognormal", "mu": 6.2, "sigma": 1.0}, "output": 256},
    "prefix": {"kind": "groups", "groups": 8, "system_tokens": 1024},
}


def generate(twin, *arguments):
    return twin("trace", "generate", *arguments)


def test_a_description_and_settings_over_it(twin, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    done = generate(twin, "--spec", "mine.yaml", "--set", "lengths.output=7", "--out", "w.jsonl")
    assert "w.jsonl: 40 requests over" in done.stdout
    work = read_trace(tmp_path / "w.jsonl")
    assert work.name == "mine"
    assert {len(request.output) for request in work} == {7}
    assert len({request.prompt.parts[0] for request in work}) == 8


def test_a_preset_with_settings_over_it(twin, tmp_path):
    generate(
        twin,
        *("--preset", "weka-agents", "--sessions", 3, "--out", "w.jsonl.gz"),
        *("--set", "prefix.steps=2", "--set", "prefix.subagents=null"),
    )
    work = read_trace(tmp_path / "w.jsonl.gz")
    assert len(work) == 6
    assert work.meta["origin"]["sessions"] == 3


@pytest.mark.parametrize("name", ["mooncake-synthetic", "aiperf-agentic", "azure-code"])
def test_a_preset_is_shown_as_a_description(twin, name):
    shown = twin("trace", "presets", "--show", name).stdout
    spec = WorkloadSpec.model_validate({"name": name, **yaml.safe_load(shown)})
    assert spec == preset(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --preset NAME or --spec FILE"),
        (("--preset", "lmsys", "--spec", "x.yaml"), "give either"),
        (("--spec", "none.yaml"), "none.yaml: cannot be read"),
        (
            ("--preset", "lmsys", "--set", "lengths.inputs=3"),
            "lmsys: lengths: unknown key 'inputs'; known here are input, output, spearman",
        ),
        (("--preset", "lmsys", "--set", "arrivals.rate=-1"), "arrivals.rate: Input should"),
        (("--preset", "lmsys", "--sessions", 2), "lmsys has no sessions to count; give n"),
    ],
)
def test_what_cannot_be_generated_is_refused(twin, tmp_path, arguments, message):
    refused = generate(twin, *arguments, "--out", "w.jsonl")
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert not (tmp_path / "w.jsonl").exists()


def test_traces_side_by_side(twin, tmp_path):
    generate(twin, "--preset", "lmsys", "--n", 50, "--out", "w.jsonl")
    options = ("w.jsonl", "lmsys", "sharegpt", "--limit", 50)
    shown = twin("trace", "inspect", *options, "--plot", "plots/w.png")
    assert "KS distance, input" in shown.stdout
    assert (tmp_path / "plots" / "w.png").stat().st_size > 10_000
    values = json.loads(twin("trace", "inspect", *options, "--json").stdout)
    assert [one["requests"] for one in values["traces"]] == [50, 50, 50]
    same, other = values["ks_distance_to_first"]
    assert same["input"] == same["inter-arrival"] == 0
    assert other["input"] > 0


def test_a_plot_is_png_or_svg(twin):
    refused = twin("trace", "inspect", "lmsys", "--limit", 5, "--plot", "w.pdf")
    assert refused.exit_code == 2
    assert "w.pdf: a plot is written as png or svg" in refused.stderr
