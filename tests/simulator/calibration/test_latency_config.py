"""Section `latency` and `host.profile`: what they take, what they refuse, and what a run then says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from policies.config import ConfigError
from simulator import Plan, RooflineLatency, SimulatorConfig, simulate
from simulator.calibration.fitting import calibrate
from simulator.calibration.profile import CalibratedProfile
from simulator.host import HostOptions
from simulator.latency.operators import OperatorLatency
from simulator.profile import mismatches, shipped_profiles
from simulator.simulation import as_config
from tests.simulator.calibration.truth import recorded, work

if TYPE_CHECKING:
    from pathlib import Path

LOAD = work(1, 60, rate=10)
LARGER = work(2, 80, rate=25, prompt=1200)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("profiles") / "p.json"
    calibrate([recorded(LOAD, 0.02)]).profile.save(path)
    return str(path)


def plan(**latency: Any) -> Plan:
    return Plan.of(as_config({"latency": latency}))


def test_the_roofline_stays_the_default() -> None:
    assert isinstance(Plan.of(SimulatorConfig()).latency, RooflineLatency)
    assert isinstance(plan(gemm_flops_efficiency=0.5).latency, RooflineLatency)
    assert Plan.of(as_config({"latency": None, "host": None})).approximations == ()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            {"model": "oracle"},
            "latency.model: unknown 'oracle'; known are roofline, operators, calibrated",
        ),
        ({"model": 3}, "latency.model: unknown 3; known are"),
        (
            {"model": "calibrated", "run": "x"},
            "unknown key 'latency.run'; calibrated knows model, profile",
        ),
        ({"gemm": 0.5}, "unknown key 'latency.gemm'; roofline knows gemm_flops_efficiency"),
        ({"model": "calibrated"}, "latency.profile: Field required"),
        ({"model": "replayed"}, "latency.run: Field required"),
        ({"model": "replayed", "run": 3}, "latency.run: Input should be a string, not 3"),
        ({"model": "operators", "tables": 1}, "latency.tables: Input should be a string"),
        ({"model": "operators", "all_to_all": "x"}, "latency.all_to_all: Input should be 'nccl'"),
        (
            {"model": "operators", "parallel": {"dp": 2}},
            "unknown key 'latency.parallel.dp'; known here are tp, ep, pp",
        ),
        (
            {"model": "operators", "parallel": {"tp": 2, "ep": 3}},
            "latency.parallel: tp is 2 and ep 3; one must divide the other",
        ),
        (
            {"model": "calibrated", "profile": "p", "accept_mismatch": "perhaps"},
            "latency.accept_mismatch: Input should be true or false",
        ),
        (
            {"model": "calibrated", "profile": "none.json"},
            "latency.profile: none.json cannot be read",
        ),
        ({"model": "operators", "profile": "none"}, "neither a file nor a profile that ships"),
        (
            {"model": "operators", "profile": "a", "tables": "b"},
            "profile and tables are both given",
        ),
        ({"model": "operators", "tables": "/nowhere"}, "latency.tables: "),
        ({"gemm_flops_efficiency": 7}, "gemm_flops_efficiency: Input should be less than or equal"),
    ],
)
def test_what_cannot_be_is_refused_with_what_could(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan(**section)
    assert said in str(error.value)
    key = str(error.value).partition(":")[0].split(".")
    assert not {"roofline", "operators", "calibrated", "replayed"} & set(key)  # as YAML has it


def test_a_profile_of_another_model_or_device_is_refused_unless_accepted(profile: str) -> None:
    config: dict[str, Any] = {
        "latency": {"model": "calibrated", "profile": profile},
        "host": {"profile": profile},
    }
    assert Plan.of(as_config(config)).approximations == ()
    for section, said in (
        ({"model": {"path": "Qwen/Qwen3-4B"}}, "it is of model Qwen/Qwen3-8B, the config's is"),
        ({"device": {"name": "h100"}}, "it was measured on NVIDIA H200 SXM 141GB, the config's"),
    ):
        with pytest.raises(ConfigError, match=said):
            Plan.of(as_config({**config, **section}))
        accepted = {**config, **section, "latency": {**config["latency"], "accept_mismatch": True}}
        told = Plan.of(as_config(accepted)).approximations
        assert any(said in text for text in told)


@pytest.mark.parametrize(
    ("measured", "device", "fits"),
    [
        ("NVIDIA H200", "h200", True),
        ("NVIDIA H100 80GB HBM3", "h100", True),
        ("NVIDIA H100 80GB HBM3", "h200", False),
        ("NVIDIA GeForce RTX 4090", "rtx4090", True),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtxpro6000", True),
        ("h200_sxm", "h200", True),
    ],
)
def test_devices_are_known_by_what_drivers_call_them(
    measured: str, device: str, fits: bool
) -> None:
    wrong, unknown = mismatches("Qwen/Qwen3-8B", measured, "Qwen/Qwen3-8B", device)
    assert (wrong == []) is fits
    assert unknown == []


def test_names_of_models_are_compared_by_what_they_end_in() -> None:
    def fit(one: str, other: str) -> bool:
        return mismatches(one, "h200", other, "h200")[0] == []

    assert fit("/weights/SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M")
    assert fit("/models/Qwen3-8B/", "Qwen/Qwen3-8B")
    assert not fit("Qwen/Qwen3-8B", "Qwen/Qwen3-4B")
    assert not fit("Qwen/Qwen3-1.7B", "Qwen/Qwen3-1")
    # no datasheet describes a CPU: it is told, never passed over
    assert "no datasheet describes" in mismatches("a", "CPU", "a", "h200")[1][0]


def test_a_file_of_another_kind_says_what_it_is(tmp_path: Path, profile: str) -> None:
    with pytest.raises(ConfigError, match=r"is of kind calibrated: use it with latency\.model"):
        plan(model="operators", profile=profile)
    other = tmp_path / "x.json"
    for text, said in (("{}", "has no `kind` of"), ("no", "is not JSON"), ("[]", "has no `kind`")):
        other.write_text(text)
        with pytest.raises(ConfigError, match=said):
            plan(model="calibrated", profile=str(other))


def test_the_host_takes_a_profile_below_what_is_given(profile: str) -> None:
    fitted = CalibratedProfile.load(profile).host
    config = as_config({"host": {"profile": profile, "commit_fixed_ns": 7}})
    assert config.host.commit_fixed_ns == 7
    assert config.host.prepare_fixed_ns == fitted["prepare_fixed_ns"]
    assert set(fitted) == set(HostOptions.model_fields) - {"preset"}
    again = as_config(config, ["host.collect_fixed_ns=8"])
    assert (again.host.commit_fixed_ns, again.host.collect_fixed_ns) == (7, 8)
    assert again.host.prepare_fixed_ns == fitted["prepare_fixed_ns"]
    with pytest.raises(ConfigError, match=r"host\.preset and host\.profile are both given"):
        as_config({"host": {"profile": profile, "preset": "zero"}})
    with pytest.raises(ConfigError, match=r"^host\.profile: none\.json cannot be read"):
        as_config({"host": {"profile": "none.json"}})


def test_an_assumed_host_beside_a_calibrated_device_is_told(profile: str) -> None:
    section = {"model": "calibrated", "profile": profile}
    told = plan(**section).approximations
    assert told == ("host times are assumed; host.profile takes them from a calibrated profile",)


@pytest.mark.parametrize("leap", [True, False])
def test_steps_beyond_the_calibration_are_counted_in_manifest_and_table(
    profile: str, leap: bool
) -> None:
    config = {
        "latency": {"model": "calibrated", "profile": profile},
        "host": {"profile": profile},
        "policy": {"chunked_prefill_size": None},
    }
    inside = simulate(LOAD, config, leap=leap)
    beyond = simulate(LARGER, config, leap=leap)
    few, many = (sum(run.manifest["flags"].values()) for run in (inside, beyond))
    assert few < 0.02 * inside.manifest["counts"]["steps"] < many
    least, most = CalibratedProfile.load(profile).ranges["decode_kv_tokens"]
    steps = beyond.steps
    kv = steps.kv_tokens_read - steps.prefill_tokens - steps.cached_tokens
    outside = int(((kv > 0) & ((kv < least) | (kv > most))).sum())
    assert outside > 100
    name = f"decode_kv_tokens outside {least} to {most}"
    assert beyond.manifest["flags"][name] == outside
    shown = " ".join(str(beyond).split())
    assert "not measured: " in shown
    assert f"{outside:,} of {len(steps):,} steps" in shown
    assert "not measured" in beyond._repr_html_()
    assert "not measured" not in str(simulate(LOAD))


def test_walking_and_leaping_leave_the_same_run(profile: str) -> None:
    config = {"latency": {"model": "calibrated", "profile": profile}}
    walked, leapt = (simulate(LARGER, config, leap=leap) for leap in (False, True))
    assert walked.manifest == leapt.manifest
    assert walked.arrow("steps").equals(leapt.arrow("steps"))
    assert walked.manifest["flags"]


def test_a_run_says_what_its_clock_stands_on(profile: str) -> None:
    run = simulate(LOAD, {"latency": {"model": "calibrated", "profile": profile}})
    stands_on = run.manifest["resolved"]["latency"]
    assert (stands_on["model"], stands_on["profile"]) == ("calibrated", profile)
    assert simulate(LOAD, run.manifest["config"]).manifest == run.manifest
    assert simulate(LOAD).manifest["resolved"]["latency"] == {"model": "roofline"}


@pytest.mark.skipif(not shipped_profiles(), reason="no profile ships")
def test_a_profile_that_ships_is_found_by_model_and_device() -> None:
    found = plan(model="operators")
    assert isinstance(found.latency, OperatorLatency)
    assert found.latency_source["profile"] == "h200.qwen3-8b"
    assert found.approximations
    with pytest.raises(ConfigError, match=r"latency\.profile: .* neither a file nor a profile"):
        Plan.of(as_config({"latency": {"model": "operators"}, "device": {"name": "l40s"}}))
    with pytest.raises(ConfigError, match="its weight_dtype is bfloat16, the config's"):
        Plan.of(as_config({"latency": {"model": "operators"}, "model": {"weight_dtype": "fp8"}}))
