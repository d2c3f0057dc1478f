"""Validation: what a real run is simulated with, and what of it was assumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from policies.config import ConfigError
from policies.model_shape import BUNDLED_FOLDER, ModelShape
from simulator.config import Plan
from simulator.devices import Device
from simulator.operators.llmservingsim import variant_folder
from simulator.operators.shards import Parallel
from simulator.operators.tables import TableError
from simulator.simulation import as_config
from simulator.validation.assumption import resolved
from simulator.validation.latency import latency_section, link_of
from simulator.validation.memory import kv_tokens
from simulator.validation.setup import setup_of
from simulator.validation.split import check_split
from tests.simulator.validation.made import real
from traces.real_runs import read_real_run
from traces.real_runs.base import EngineSettings

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "gpu" / "llmservingsim"


def test_settings_that_a_run_does_not_say_are_told_as_assumptions():
    engine = EngineSettings("vllm", model="meta-llama/Llama-3.1-8B", device="RTXPRO6000")
    run = replace(real([(1, 2)]), engine=engine)
    other = replace(run, name="other", engine=replace(engine, context_limit=4096, kv_tokens=777))
    setup = setup_of(run, like=other)
    told = {one.key: one for one in setup.assumptions}
    assert told["context_limit"].why == "as in other"
    assert "kv.capacity_tokens" in told  # memory is never taken from another GPU's run
    assert setup.config["kv"]["capacity_tokens"] != 777
    assert setup.config["policy"]["context_limit"] == 4096


def test_a_datasheet_of_one_s_own_is_not_taken_for_the_gpu_that_its_file_is_called_after(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    sheet = {
        "product": "My GPU",
        "bf16_flops": 1e15,
        "fp8_flops": None,
        "memory_bandwidth": 4e12,
        "memory_bytes": 50 << 30,
    }
    Path("h200-mine.json").write_text(json.dumps(sheet), encoding="utf-8")
    run = real([(1, 2)])
    preset = {"preset": "vllm"}
    own = setup_of(run, model="Qwen/Qwen3-8B", device="h200-mine.json", given=preset)
    assert own.config["device"] == {"name": "h200-mine.json"}
    h200 = setup_of(run, model="Qwen/Qwen3-8B", device="NVIDIA H200", given=preset)
    assert own.config["kv"]["capacity_tokens"] < h200.config["kv"]["capacity_tokens"]


def test_what_is_given_is_not_assumed():
    engine = EngineSettings("vllm", model="meta-llama/Llama-3.1-8B", device="RTXPRO6000")
    run = replace(real([(1, 2)]), engine=engine)
    every = {
        "GPUs",
        "kv.capacity_tokens",
        *(f"policy.{name}" for name in ("page_size", "cache", "overlap", "context_limit")),
        "policy.max_running_requests",
        "policy.batching_options.max_num_batched_tokens",
    }
    assert {one.key for one in setup_of(run).assumptions} == every
    given = {
        "kv.capacity_tokens": "5000",
        "policy.overlap": "serial",
        "policy.batching_options": "",
    }
    setup = setup_of(run, given=given)
    assert {one.key for one in setup.assumptions} == every - {
        "kv.capacity_tokens",
        "policy.overlap",
        "policy.batching_options.max_num_batched_tokens",
    }
    assert setup.config["policy"]["context_limit"] == 5000  # no more than the memory holds
    told = resolved(setup.assumptions, {"max_running_requests": 99})
    assert {one.key: one.value for one in told}["policy.max_running_requests"] == 99


def test_an_engine_that_a_file_does_not_name_can_be_given():
    setup = setup_of(real([(1, 2)]), model="Qwen/Qwen3-8B", device="h200", given={"preset": "vllm"})
    assert setup.config["preset"] == "vllm"


def test_step_times_of_another_split_are_an_error_or_told():
    engine = EngineSettings(
        "vllm", model="Qwen/Qwen3-32B", device="h200", tensor_parallel=2, kv_tokens=1000
    )
    run = replace(real([(1, 2)]), engine=engine)
    setup = setup_of(run)
    assert check_split(setup, Parallel(tp=2)) == []
    assert "one GPU" in check_split(setup, None)[0]
    with pytest.raises(ConfigError, match=r"measured for tp=4 .*split as tp=2"):
        check_split(setup, Parallel(tp=4))
    unknown = replace(run, engine=replace(engine, tensor_parallel=None))
    assert setup_of(unknown, split=Parallel(tp=4)).parallel == Parallel(tp=4)


@pytest.mark.parametrize(
    ("version", "older"), [("0.19.0", True), ("0.9.1rc2", True), ("0.32.0", False), (None, False)]
)
def test_older_engines_free_their_blocks_as_they_did(version, older):
    engine = EngineSettings(
        "vllm",
        version=version,
        model="meta-llama/Llama-3.1-8B",
        device="RTX4090",
        kv_tokens=1000,
        max_batched_tokens=512,
    )
    options = setup_of(replace(real([(1, 2)]), engine=engine)).config["policy"]["batching_options"]
    assert options["max_num_batched_tokens"] == 512
    assert options.get("reuse_unhashed_first", True) is not older


def test_models_and_devices_are_found_by_the_names_engines_write():
    engine = EngineSettings(
        "vllm",
        model="Qwen/Qwen3-30B-A3B-Instruct-2507",
        device="NVIDIA GeForce RTX 4090",
        data_parallel=2,
        expert_parallel=True,
        kv_tokens=1000,
        context_limit=1000,
    )
    setup = setup_of(replace(real([(1, 2)]), engine=engine))
    assert setup.model.name == "Qwen/Qwen3-30B-A3B"
    assert setup.config["device"] == {"name": "rtx4090"}
    assert (setup.parallel, setup.ranks) == (Parallel(tp=1, ep=2), 2)


def test_a_model_given_by_its_path_is_simulated_from_there(tmp_path):
    shape = json.loads((BUNDLED_FOLDER / "Qwen--Qwen3-4B.json").read_text())
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(shape | {"num_hidden_layers": 7}))
    engine = EngineSettings("vllm", device="RTX4090")
    run = replace(real([(1, 2)]), engine=engine)
    for setup in (setup_of(run, model=str(path)), setup_of(run, model=str(path), config={})):
        assert Plan.of(as_config(setup.config)).model.layers == 7


def test_a_model_and_a_device_given_beside_a_config_are_simulated():
    config = {"model": {"path": "Qwen/Qwen3-8B"}, "device": {"name": "h200"}}
    setup = setup_of(real([(1, 2)]), config=config, model="Qwen/Qwen3-4B-AWQ", device="RTX4090")
    assert setup.config == {"model": {"path": "Qwen/Qwen3-4B"}, "device": {"name": "rtx4090"}}
    assert [str(one) for one in setup.assumptions] == [
        "model.path = Qwen/Qwen3-4B: the shape of Qwen/Qwen3-4B-AWQ, by its name"
    ]


def test_what_cannot_be_simulated_is_said():
    run = real([(1, 2)])
    with pytest.raises(ConfigError, match="--config"):
        setup_of(run)
    dense = EngineSettings("vllm", model="Qwen/Qwen3-8B", device="h200", data_parallel=2)
    with pytest.raises(ConfigError, match="engines of their own"):
        setup_of(replace(run, engine=dense))
    with pytest.raises(ConfigError, match="--device"):
        setup_of(replace(run, engine=EngineSettings("vllm", model="Qwen/Qwen3-8B")))


def test_memory_of_a_split_model():
    model, device = ModelShape.load("Qwen/Qwen3-32B"), Device.load("h100")
    one, two = (kv_tokens(model, device, Parallel(tp=tp), 0.9) for tp in (1, 2))
    # half the weights and half the KV of a token on each GPU
    assert two > 4 * one
    experts = ModelShape.load("Qwen/Qwen3-30B-A3B")
    shared = kv_tokens(experts, device, Parallel(ep=2), 0.9)
    freed = experts.routed_parameters  # bf16, half of them gone
    gained = shared - kv_tokens(experts, device, Parallel(), 0.9)
    assert gained == pytest.approx(freed / experts.kv_bytes_per_token(), rel=1e-3)


def test_a_link_has_as_many_hops_as_a_ring():
    engine = EngineSettings("vllm", link_latency_ns=1000.0, link_gigabytes_per_s=16.0)
    run = replace(real([(1, 2)]), engine=engine)
    assert link_of(run, Parallel(tp=2)).latency_ns == 2000
    assert link_of(run, Parallel(ep=2)).latency_ns == 1000
    assert link_of(run, Parallel()) is None


def test_settings_of_another_engine_do_not_stand_in():
    engine = EngineSettings("vllm", model="meta-llama/Llama-3.1-8B", device="RTXPRO6000")
    run = replace(real([(1, 2)]), engine=engine)
    with pytest.raises(ConfigError, match="was run on sglang: its settings cannot stand in"):
        setup_of(run, like=replace(run, engine=EngineSettings("sglang")))
    with pytest.raises(ConfigError, match="nobody knows what"):
        setup_of(run, like=replace(run, engine=None))


def test_a_folder_of_profiles_is_known_by_any_of_its_levels(tmp_path):
    variant = tmp_path / "GPU" / "Qwen" / "Qwen3-8B" / "bf16"
    (variant / "tp2").mkdir(parents=True)
    (variant / "meta.yaml").write_text("model: Qwen/Qwen3-8B\n")
    other = tmp_path / "GPU" / "meta-llama" / "Llama-3.1-8B" / "bf16"
    (other / "tp1").mkdir(parents=True)
    (other / "meta.yaml").write_text("model: meta-llama/Llama-3.1-8B\n")
    for folder in (variant / "tp2", variant, variant.parent, variant.parent.parent, tmp_path):
        assert variant_folder(folder, "Qwen/Qwen3-8B") == variant
    with pytest.raises(TableError, match="it is of model meta-llama"):
        variant_folder(other, "Qwen/Qwen3-8B")
    with pytest.raises(TableError, match="no folder tp1"):
        variant_folder(variant / "tp2" / "deeper", "Qwen/Qwen3-8B")
    (variant.parent / "fp8" / "tp1").mkdir(parents=True)
    with pytest.raises(TableError, match=r"several profiles: .*bf16, .*fp8; give one"):
        variant_folder(tmp_path, "Qwen/Qwen3-8B")


@pytest.mark.skipif(not SHARED.exists(), reason="the benchmark runs are not here")
def test_a_profile_of_another_device_is_an_error_wherever_it_is_named_from(tmp_path, monkeypatch):
    run = read_real_run(SHARED / "bench" / "examples" / "RTX4090" / "Llama-3.1-8B")
    setup = setup_of(run)

    def planned(gpu: str) -> Plan:
        monkeypatch.chdir(
            SHARED / "profiler" / "perf" / gpu / "meta-llama" / "Llama-3.1-8B" / "bf16"
        )
        section = latency_section(".", setup, run, tmp_path / f"{gpu}.json")
        return Plan.of(as_config({**setup.config, "latency": section}))

    assert not any("measured on" in text for text in planned("RTX4090").approximations)
    with pytest.raises(ConfigError, match=r"measured on RTXPRO6000, the config's device is rtx"):
        planned("RTXPRO6000")
