"""The command as a whole: quick help, what it lists, and errors that say what would be right."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from itertools import pairwise

import click
import pytest
import yaml

from policies.registry import BATCHINGS, EVICTIONS, ORDERS, RETRACTIONS
from runtime.config import RuntimeOptions
from simulator.config import SimulatorConfig
from simulator.devices import Device, known_devices
from simulator.profile import shipped_profiles
from traces.records.definitions import METRICS
from traces.records.run import load_run
from twin import show
from twin.cli import COMMANDS, main

HEAVY = ("numpy", "pandas", "pydantic", "pyarrow", "matplotlib", "rich", "scipy", "simpy", "yaml")

HELP = f"""
import sys
from twin.cli import main
try:
    main(["--help"], prog_name="twin")
except SystemExit as ended:
    assert not ended.code
print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: twin")
    assert done.stderr.strip() == ""


def test_help_says_of_each_command_what_it_says_of_itself(twin):
    for name, entry in COMMANDS.items():
        command = main.get_command(None, name)
        assert command is not None
        assert command.name == name
        assert twin(name, "--help").exit_code == 0
        own = (command.help or "").split(".")[0].split(";")[0]
        assert own.split()[:2] == entry.help.rstrip(".").split()[:2]


def test_policies_lists_every_policy_with_its_options(twin):
    listed = twin("policies").stdout
    for registry in (ORDERS, BATCHINGS, EVICTIONS, RETRACTIONS):
        for name in registry.names():
            assert f" {name} " in listed
    assert "protected_hits=2" in listed
    assert "Least recently used." in listed


def test_devices_models_and_metrics_are_listed(twin):
    for name in known_devices():
        assert name in twin("devices").stdout
    assert "Qwen/Qwen3-8B" in twin("models").stdout
    for name in METRICS:
        assert name in twin("metrics").stdout


def test_profiles_that_ship_are_listed_with_their_source_and_errors(twin):
    found = json.loads(twin("profiles", "--json").stdout)
    assert tuple(found) == shipped_profiles()
    shown = twin("profiles").stdout
    for name, profile in found.items():
        assert name in shown
        assert profile["source"]
        assert set(profile["errors"]) >= {"gemm", "prefill", "decode"}


def test_a_datasheet_that_is_printed_can_be_changed_and_named(twin, tmp_path):
    assert "`twin devices h200 > mine.yaml`" in twin("devices").stdout
    for name in known_devices():
        (tmp_path / "mine.yaml").write_text(twin("devices", name).stdout, encoding="utf-8")
        copied, bundled = Device.load("mine.yaml"), Device.load(name)
        assert dataclasses.replace(copied, name=name) == bundled
        assert copied.sources == bundled.sources
    slow = twin("devices", "h200").stdout.replace("4.8e+12", "2.4e+12")
    (tmp_path / "mine.yaml").write_text(slow, encoding="utf-8")
    for name, out in (("h200", "fast"), ("mine.yaml", "slow")):
        assert twin(*SIMULATE, "--set", f"device.name={name}", "--out", out).exit_code == 0
    duration = {out: load_run(out).requests["finish_ns"].max() for out in ("fast", "slow")}
    assert duration["slow"] > duration["fast"]
    assert "unknown device 'h900'; known: a100" in twin("devices", "h900").stderr


def test_the_config_that_is_printed_can_be_given(twin, tmp_path):
    shown = twin("config", "--set", "policy.order=lpm", "--seed", 7).stdout
    (tmp_path / "mine.yaml").write_text(shown, encoding="utf-8")
    assert twin("config", "--config", "mine.yaml").stdout == shown
    assert yaml.safe_load(shown)["policy"]["order"] == "lpm"
    assert yaml.safe_load(shown)["seed"] == 7


@pytest.mark.parametrize("preset", [(), ("--preset", "vllm")])
def test_a_printed_config_says_what_each_key_means_and_is_the_config(twin, preset):
    shown = twin("config", *preset).stdout
    values = yaml.safe_load(shown)
    config = SimulatorConfig.model_validate({"preset": preset[1]} if preset else {})
    assert values | {"runtime": None} == config.model_dump(mode="json")
    assert values["runtime"] == RuntimeOptions().model_dump(mode="json")
    lines = [line.strip() for line in shown.splitlines()]
    at = lines.index("overlap: overlapped")
    assert lines[at - 1].startswith("# Whether the host schedules a step while the device runs")
    assert lines[lines.index("load_format: auto") - 1] == "# safetensors, gguf, dummy)."
    assert max(map(len, lines)) <= 110
    undocumented = [
        line
        for before, line in pairwise(lines)
        if re.match(r"\w+:", line) and not before.startswith("#")
    ]
    if not preset:  # a preset sets options of a batching, which that says of itself
        assert undocumented == ["model: roofline"]  # the section's own text says what it may be
    assert lines[lines.index("model: roofline") - 1] == "latency:"


def test_the_folder_of_a_run_is_no_trace_and_says_what_takes_it(twin, trace):
    assert twin("simulate", "--trace", trace, "--out", "a").exit_code == 0
    result = twin("simulate", "--trace", "a")
    assert result.exit_code == 2
    assert "a: found the folder of a run; expected a trace (`twin validate`" in result.stderr


def test_what_is_not_read_is_said_once(twin):
    both = ("--set", "kv.capacity_tokens=200000", "--set", "kv.mem_fraction=0.5")
    for arguments in (
        ("config", *both),
        ("simulate", "--workload", "azure-conversation", "--limit", 3, *both),
        ("ab", "--workload", "azure-conversation", "--limit", 3, "--vary", "seed=1,2", *both),
    ):
        result = twin(*arguments)
        assert result.exit_code == 0
        assert result.stderr.count("note: kv.mem_fraction 0.5 is not read") == 1
        assert "kv.capacity_tokens 200000 says how much KV there is" in result.stderr
    # the share of memory that a preset brings is nobody's wish
    alone = twin("config", "--preset", "vllm", "--set", "kv.capacity_tokens=200000")
    assert "not read" not in alone.stderr
    for one in ("kv.capacity_tokens=200000", "kv.mem_fraction=0.5"):
        assert "not read" not in twin("config", "--set", one).stderr


SIMULATE = ("simulate", "--workload", "azure-conversation", "--limit", 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nope",), "no command 'nope'; known are simulate, compare"),
        (("simulate",), "either --trace PATH or --workload PRESET; presets are aiperf"),
        (("simulate", "--trace", "a", "--workload", "b"), "either --trace"),
        (("simulate", "--trace", "nope.jsonl"), "nope.jsonl: found no such file"),
        (("simulate", "--trace", "azure-conversation"), "use --workload azure-conversation"),
        (("simulate", "--workload", "nope"), "unknown preset 'nope'; known: aiperf"),
        (("simulate", "--trace", "x", "--rate", 1), "--rate is for a generated workload"),
        ((*SIMULATE, "--limit", 0), "0 is not in the range x>=1"),
        ((*SIMULATE, "--speedup", "nan"), "speedup must be a positive number"),
        ((*SIMULATE, "--speedup", "0"), "speedup must be a positive number"),
        ((*SIMULATE, "--rate", "-1"), "rate"),
        (
            (*SIMULATE, "--set", "policy.ordr=lpm"),
            "unknown key 'policy.ordr'; known here are order",
        ),
        ((*SIMULATE, "--set", "order=lpm"), "unknown key 'order': that is policy.order; known"),
        (
            (*SIMULATE, "--order", "lpm"),
            "'--order': it is a key of the config, so --set policy.order=lpm",
        ),
        ((*SIMULATE, "--page-size=16", "--strict"), "so --set policy.page_size=16"),
        ((*SIMULATE, "--overlap", "--strict"), "so --set policy.overlap=VALUE"),
        ((*SIMULATE, "--rates", "3"), "No such option '--rates'. (Did you mean one of"),
        (("compare", "--order", "lpm"), "No such option '--order'."),
        ((*SIMULATE, "--set", "policy.order=x"), "unknown queue order 'x'; known are dfs-weight"),
        ((*SIMULATE, "--set", "policy.order_options.n=1"), "has no option 'n'; it takes none"),
        ((*SIMULATE, "--set", "policy.page_size=-3"), "policy.page_size: Input should be greater"),
        ((*SIMULATE, "--set", "policy.page_size"), "is not of the form section.key=value"),
        ((*SIMULATE, "--set", "device.name=h900"), "unknown device 'h900'; known: a100"),
        ((*SIMULATE, "--set", "model.path=nope/7B"), "model.path"),
        ((*SIMULATE, "--set", "device.name=rtx4090", "--set", "model.path=Qwen/Qwen3-32B"), "fit"),
        ((*SIMULATE, "--config", "nope.yaml"), "nope.yaml: cannot be read"),
        ((*SIMULATE, "--set", "latency.model=replayed"), "Error: latency.run: Field required"),
        (
            (*SIMULATE, "--set", "runtime.attn=torch"),
            "unknown key 'runtime.attn'; known here are device, load_format, attention",
        ),
        ((*SIMULATE, "--set", "runtime.attention=fast"), "runtime.attention: Input should be"),
        (("config", "--set", "runtime=3"), "runtime: is a section, a mapping of keys, not 3"),
        ((*SIMULATE, "--records", "stpes"), "unknown records stpes: known are requests, steps"),
        ((*SIMULATE, "--policy", "nope.py"), "--policy nope.py: no such file"),
        ((*SIMULATE, "--import", "nope_nope"), "--import nope_nope: ModuleNotFoundError"),
        (("compare", "nope"), "nope: no such run folder"),
        (("compare",), "Missing argument"),
        (("ab", "--workload", "azure-conversation", "--order", "lpm"), "nothing to compare"),
        (("ab", "--workload", "azure-conversation", "--vary", "seed"), "section.key=value,value"),
        (("trace", "inspect", "nope.csv"), "nope.csv: found no such file"),
        (("trace", "generate", "--preset", "nope", "--out", "x.jsonl"), "unknown preset 'nope'"),
        (
            ("trace", "generate", "--preset", "azure-conversation", "--rate", "0", "--out", "x"),
            "rate",
        ),
    ],
)
def test_what_cannot_be_done_is_one_message_and_exit_code_2(twin, tmp_path, arguments, says):
    result = twin(*arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_where_the_terminal_is_narrow_a_row_is_a_paragraph(monkeypatch, capsys):
    rows = [("a" * 20, "yes", "word " * 20), ("b" * 20, "", "https://example.com/" + "x" * 90)]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    show.show_rows(("name", "written", "what it is"), rows)
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert lines[:3] == ["a" * 20, "  written: yes", "  what it is: word word word word word"]
    assert max(len(line) for line in lines if "https" not in line) <= 40
    assert f"    {rows[1][2]}" in lines, "an address is never broken"
