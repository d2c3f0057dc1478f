"""Validation: what is compared, what is assumed, and whether the parts say what is true."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.config import ConfigError
from policies.model_shape import ModelShape
from simulator.calibration.steps import Steps
from simulator.config import Plan
from simulator.data_parallel import simulate_ranks
from simulator.devices import Device
from simulator.operators.llmservingsim import variant_folder
from simulator.operators.shards import Parallel
from simulator.operators.tables import TableError
from simulator.simulation import as_config, simulate
from simulator.validation.answer import answers
from simulator.validation.budget import budget, measured_arrivals
from simulator.validation.figures import figures
from simulator.validation.replay import latency_section, link_of, replay
from simulator.validation.retime import retimed
from simulator.validation.series import series
from simulator.validation.setup import check_split, kv_tokens, resolved, setup_of
from simulator.validation.spread import check_repeats, spreads
from simulator.validation.validate import Question, validate
from traces.errors import TraceError
from traces.generate import generate
from traces.real_runs import read_real_run
from traces.real_runs.base import EngineSettings, RealRequest, RealRun
from traces.real_runs.our_run import from_run
from traces.records.run import Run

MS = 1_000_000
SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "gpu" / "llmservingsim"
RECORDS = ("requests", "steps", "tokens", "decisions")
TRUTH = {
    "preset": "vllm",
    "device": {"name": "h200"},
    "kv": {"capacity_tokens": 30_000},
    "policy": {"context_limit": 8_192},
}


def real(latencies_ms: list[tuple[int, int]], name: str = "real") -> RealRun:
    """Requests 10 ms apart of 11 tokens, with these TTFT and E2E."""
    work = generate("mooncake-conversation", n=len(latencies_ms), seed=0)
    requests = tuple(
        RealRequest(r.id, len(r.prompt), 11, 10 * i * MS, ttft * MS, e2e * MS)
        for i, (r, (ttft, e2e)) in enumerate(zip(work, latencies_ms, strict=True))
    )
    return RealRun(name, "made", Path(name), requests, work)


@pytest.fixture(scope="module")
def served():
    """A run that stands for a real one, short of memory, every decision recorded."""
    work = generate("azure-conversation", n=250, seed=5, rate=15.0)
    return from_run(simulate(work, TRUTH, records=RECORDS), Path("served"))


def test_an_error_is_the_simulated_value_over_the_real_one():
    found = figures(real([(10, 110), (20, 220)]), real([(11, 121), (22, 242)]))
    assert found.of("ttft").error == pytest.approx(0.1)
    assert found.of("tpot", "p99").error == pytest.approx(0.1)
    assert found.of("e2e").real == pytest.approx(165)
    assert found.unknown == ("itl",)


def test_requests_are_compared_with_themselves():
    whole, part = real([(10, 110), (20, 220)]), real([(10, 110), (20, 220)])
    part = replace(part, requests=part.requests[1:])
    found = figures(whole, part)
    assert (found.requests, found.only_real) == (1, 1)
    assert found.of("ttft").error == 0
    with pytest.raises(ValueError, match="no request of the same id"):
        figures(whole, replace(part, requests=()))


def test_over_time_every_token_is_somewhere():
    run = real([(5, 105), (10, 60), (7, 207)])
    found = {one.name: one for one in series(run, run)}
    tokens = found["output tokens"]
    width = tokens.time_s[1] - tokens.time_s[0]
    assert tokens.real.sum() * width == pytest.approx(3 * 11)
    assert all(one.error == 0 for one in found.values())
    decoding = found["requests in decode"]
    assert decoding.real.sum() * width == pytest.approx((100 + 50 + 200) / 1e3)


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


def test_what_ranks_do_over_time_is_counted_together():
    work = generate("azure-conversation", n=40, seed=5, rate=20.0)
    one = from_run(simulate_ranks(work, TRUTH, ranks=1), Path("one"))
    two = from_run(simulate_ranks(work, TRUTH, ranks=2), Path("two"))
    plain = from_run(simulate(work, TRUTH), Path("plain"))
    assert one.series.running.tolist() == plain.series.running.tolist()
    seen, waiting = (
        {s.name: s.simulated for s in series(two, two)}[name].max()
        for name in ("running", "requests in decode")
    )
    assert seen == pytest.approx(waiting, rel=0.2)
    assert 0 < two.series.kv_share.max() <= 1


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


@pytest.mark.parametrize("overlap", ["overlapped", "serial"])
def test_recorded_decisions_with_recorded_times_are_the_recorded_run(overlap):
    work = generate("azure-conversation", n=80, seed=6)
    config = TRUTH | {"policy": {"overlap": overlap}}
    run = from_run(simulate(work, config, records=RECORDS), Path("run"))
    steps = Steps.of(run.run)
    again = retimed(run, steps.duration_ns, steps.host_ns)
    assert again.latency("ttft").tolist() == run.latency("ttft").tolist()
    assert again.latency("e2e").tolist() == run.latency("e2e").tolist()
    slower = retimed(run, 2 * steps.duration_ns, steps.host_ns)
    assert (slower.latency("e2e") > run.latency("e2e")).all()


def test_the_same_config_simulates_the_run_without_error(served):
    setup = setup_of(served)
    made = replay(served.workload, setup.config)
    found = figures(served, made.run)
    assert [row.error for row in found.rows] == pytest.approx([0.0] * len(found.rows))


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"kv": {"capacity_tokens": 12_000}}, "KV capacity"),
        ({"device": {"name": "a100"}}, "step durations"),
    ],
)
def test_the_budget_finds_the_part_that_is_wrong(served, tmp_path, wrong, part):
    config = setup_of(served).config | wrong
    base = figures(served, replay(served.workload, config).run)
    assert abs(base.of("e2e").error) > 0.1
    found = budget(served, config, tmp_path, base=base)
    named = {one.name: one for one in found.parts}
    assert abs(named[part].errors["e2e"]) < 0.05
    others = [one for one in named.values() if one.name not in (part, "decisions", "all of these")]
    assert all(abs(one.errors["e2e"]) > 0.05 for one in others)
    assert abs(named["all of these"].errors["e2e"]) < 0.05


def test_parts_that_were_not_measured_are_named(tmp_path):
    run = replace(real([(10, 110)] * 4), concurrency=2)
    config = {"kv": {"capacity_tokens": 60_000}}
    base = figures(run, replay(run.workload, config).run)
    parts = {one.name: one for one in budget(run, config, tmp_path, base=base).parts}
    assert not parts["step durations"].known
    assert "not recorded" in parts["KV capacity"].note
    assert "follow from the answers" in parts["arrival times"].note


def test_measured_arrivals_take_the_place_of_those_planned():
    run = real([(1, 2)] * 3)
    assert [r.arrival_ns for r in measured_arrivals(run)] == [0, 10 * MS, 20 * MS]
    assert measured_arrivals(replace(run, concurrency=3)) is None


def test_repeats_tell_the_real_system_s_own_spread():
    one, two = real([(10, 110)] * 3), real([(12, 112)] * 3)
    found = {
        (s.metric, s.statistic): s
        for s in spreads([figures(one, real([(11, 111)] * 3)), figures(two, real([(11, 111)] * 3))])
    }
    ttft = found["ttft", "mean"]
    assert (ttft.lowest, ttft.highest, ttft.simulated) == (10, 12, 11)
    assert ttft.within
    assert ttft.spread == pytest.approx(1 / 11)
    with pytest.raises(ValueError, match="two or more"):
        spreads([figures(one, two)])


def test_runs_that_are_no_repeats_are_named_with_the_request():
    one, two = real([(10, 110)] * 8, "one"), real([(12, 112)] * 8, "two")
    assert check_repeats([one, two]) == []
    changed = replace(two, requests=(replace(two.requests[0], prompt_tokens=1), *two.requests[1:]))
    with pytest.raises(
        ValueError, match=r"two is no repeat of one: request .* has 1 prompt tokens"
    ):
        check_repeats([one, changed])
    with pytest.raises(
        ValueError, match="two is no repeat of one: it did not answer request r000007;"
    ):
        check_repeats([one, replace(two, requests=two.requests[:7])])
    names = "r000001, r000002, r000003, r000004, r000005 and 2 more"
    with pytest.raises(ValueError, match=f"did not answer 7 requests: {names}"):
        check_repeats([one, replace(two, requests=two.requests[:1])])
    with pytest.raises(ValueError, match="there it is not"):
        check_repeats([replace(one, requests=one.requests[:7]), two])


def test_runs_that_were_served_otherwise_are_no_repeats(served):
    one, two = real([(10, 110)], "one"), real([(12, 112)], "two")
    engine = EngineSettings("vllm", device="RTX4090", kv_tokens=1000)
    also = replace(engine, kv_tokens=1001)
    assert check_repeats([replace(one, engine=engine), replace(two, engine=also)]) == []
    with pytest.raises(ValueError, match="its device is 'L40S', there 'RTX4090'"):
        check_repeats(
            [replace(one, engine=engine), replace(two, engine=replace(also, device="L40S"))]
        )
    run = served.run
    policy = {**run.manifest["config"]["policy"], "order": "random"}
    manifest = {**run.manifest, "config": {**run.manifest["config"], "policy": policy}}
    other = replace(served, path=Path("other"), run=Run(manifest, tables={}))
    with pytest.raises(ValueError, match=r"its policy\.order is 'random', there 'fcfs'.*--other"):
        check_repeats([served, other])


def test_a_run_is_no_repeat_of_itself(tmp_path):
    one = real([(10, 110)] * 3, "one")
    with pytest.raises(ValueError, match="one is given twice"):
        check_repeats([one, real([(12, 112)] * 3, "two"), replace(one, path=Path("./two/../one"))])
    assert "has the times of one" in check_repeats([one, replace(one, path=Path("copy"))])[0]


def test_another_policy_has_to_be_of_the_same_requests(served, tmp_path):
    asked = Question()
    with pytest.raises(ValueError, match="is also the run under another policy"):
        validate([served], asked, tmp_path, other=(served, asked))
    first = replace(served.requests[0], prompt_tokens=1)
    other = replace(served, path=Path("other"), requests=(first, *served.requests[1:]))
    with pytest.raises(ValueError, match="other is not of the same requests as served"):
        validate([served], asked, tmp_path, other=(other, asked))
    fewer = replace(served, path=Path("other"), requests=served.requests[:-1])
    made = validate([served], asked, tmp_path, other=(fewer, asked), causes=False)
    last = served.requests[-1].id
    assert f"left out of the answers: request {last}, which other did not answer" in (
        made.repeats[0].notes
    )


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


def test_a_profile_of_another_model_is_an_error(served, tmp_path):
    (tmp_path / "meta.yaml").write_text("model: meta-llama/Llama-3.1-8B\n")
    (tmp_path / "tp1").mkdir()
    setup = setup_of(served)
    with pytest.raises(ConfigError, match=r"it is of model meta-llama/.*config's is Qwen/Qwen3-8B"):
        latency_section(tmp_path, setup, served, tmp_path / "keep.json")
    (tmp_path / "meta.yaml").write_text("model: [unclosed\n")
    with pytest.raises(ConfigError, match=r"meta\.yaml cannot be read"):
        latency_section(tmp_path, setup, served, tmp_path / "keep.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ttft_ns": -5}, "its first token 5 ns before it arrived"),
        ({"ttft_ns": 30, "e2e_ns": 20}, "its last token after 20 ns, the first after 30"),
        ({"output_tokens": 0}, "0 output tokens"),
        ({"arrival_ns": -1}, "an arrival 1 ns before the first"),
        ({"itl_ns": (3, -2)}, "-2 ns between two tokens"),
        ({"id": "r000000"}, "2 requests 'r000000'"),
    ],
)
def test_requests_that_no_engine_served(changes, said):
    run = real([(10, 110)] * 3)
    with pytest.raises(TraceError, match=said):
        replace(run, requests=(*run.requests[:2], replace(run.requests[2], **changes)))


def test_an_answer_holds_where_sign_and_size_agree():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 20, 144).tolist()

    def run(ttft: int) -> RealRun:
        return real([(ttft + n, ttft + n + 500) for n in noise])

    def verdict(real_change: int, simulated_change: int) -> str:
        pair = (run(100), run(100 + real_change)), (run(100), run(100 + simulated_change))
        return answers(*pair)[0].verdict

    assert verdict(-50, -50) == "holds"
    assert verdict(-50, -5) == "holds, other size"
    assert verdict(-50, 50) == "does not hold"
    assert verdict(0, -50) == "nothing to hold"


def test_errors_of_nothing_are_no_number():
    found = figures(real([(0, 0)]), real([(1, 1)]))
    assert math.isnan(found.of("ttft").error)
    assert found.of("ttft").to_dict()["error"] is None


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
