"""`twin calibrate`: a profile, its picture and its errors, and what it says of bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from simulator import simulate
from simulator.calibration.profile import CalibratedProfile
from tests.simulator.calibration.truth import noisy_device, work


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run of which everything is recorded."""
    out = tmp_path_factory.mktemp("runs") / "served"
    with noisy_device(0.03):
        simulate(work(1, 60, rate=10), out=out, records=("requests", "steps", "decisions"))
    return out


def test_a_run_becomes_a_profile_with_its_errors_and_a_picture(twin, run):
    result = twin("calibrate", run, "--out", "p.json")
    assert result.exit_code == 0
    assert "Qwen/Qwen3-8B on NVIDIA H200" in result.stdout
    for said in ("every 5th step", "the largest work", "summed time", "decode_kv_tokens"):
        assert said in result.stdout
    assert re.search(r"\d %", result.stdout)
    assert not re.search(r"\d%", result.stdout)
    assert "plot: p.png" in result.stderr
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    profile = CalibratedProfile.load("p.json")
    assert profile.errors["every 5th step"].mean < 0.05
    assert profile.provenance["runs"][0]["run"] == "served"
    assert profile.provenance["runs"][0]["versions"]["schedtwin"]
    assert Path("p.json").stat().st_size < 20_000


def test_the_profile_is_what_a_simulation_takes(twin, run, trace):
    twin("calibrate", run, "--out", "p.json", "--no-plot")
    assert not Path("p.png").exists()
    settings = [f"latency.{key}" for key in ("model=calibrated", "profile=p.json")]
    sets = [part for setting in [*settings, "host.profile=p.json"] for part in ("--set", setting)]
    result = twin("simulate", "--trace", trace, "--out", "out", *sets)
    assert result.exit_code == 0
    assert "not measured" in result.stdout  # longer prompts than it was calibrated on
    other = twin("simulate", "--trace", trace, *sets, "--set", "device.name=h100")
    assert other.exit_code == 2
    assert "it was measured on NVIDIA H200" in other.stderr


def test_the_same_records_give_the_same_files(twin, run):
    for name in ("a.json", "b.json"):
        twin("calibrate", run, "--out", name)
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_a_run_given_twice_is_one_message(twin, run):
    result = twin("calibrate", run, run, "--out", "p.json")
    assert result.exit_code == 2
    assert "have the same steps, to the nanosecond: give each run once" in result.stderr
    assert not Path("p.json").exists()


def test_a_bad_fit_is_warned_of_and_every_simulation_with_it_says_so(twin, trace):
    with noisy_device(0.5):
        simulate(work(1, 40, rate=10), out="bad", records=("requests", "steps", "decisions"))
    result = twin("calibrate", "bad", "--out", "p.json", "--no-plot")
    assert result.exit_code == 0
    (warning,) = (line for line in result.stderr.splitlines() if line.startswith("warning: "))
    assert "fits badly" in warning
    assert "fits badly" not in result.stdout
    sets = ("--set", "latency.model=calibrated", "--set", "latency.profile=p.json")
    assert twin("simulate", "--trace", trace, "--out", "out", *sets).exit_code == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert warning.removeprefix("warning: ") in manifest["approximations"]


def test_json_is_all_that_stdout_gets(twin, run):
    result = twin("calibrate", run, "--out", "p.json", "--json", "--no-plot", "--hold-out", 4)
    assert "every 4th step" in json.loads(result.stdout)["errors"]
    assert result.stdout.startswith("{")


def test_a_file_is_not_replaced_unless_asked(twin, run):
    twin("calibrate", run, "--out", "p.json", "--no-plot")
    again = twin("calibrate", run, "--out", "p.json", "--no-plot")
    assert again.exit_code == 2
    assert "overwrite it (--overwrite)" in again.stderr
    assert twin("calibrate", run, "--out", "p.json", "--no-plot", "--overwrite").exit_code == 0
    assert twin("calibrate", run, "--out", "none/p.json").exit_code == 2


@pytest.mark.parametrize(
    ("requests", "records", "said"),
    [
        (2, ("requests", "steps"), "at least 50 are needed"),
        (5, ("requests",), "no table steps"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(twin, requests, records, said):
    simulate(work(1, requests, rate=8, output=5), out="bad", records=records)
    result = twin("calibrate", "bad", "--out", "p.json")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not Path("p.json").exists()
    assert twin("calibrate", "nowhere", "--out", "p.json").exit_code == 2
