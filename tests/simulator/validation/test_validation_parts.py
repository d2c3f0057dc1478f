"""Validation: what is compared, what is assumed, and whether the parts say what is true."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.config import ConfigError
from simulator.calibration.steps import Steps
from simulator.config import Plan
from simulator.data_parallel import simulate_ranks
from simulator.simulation import as_config, simulate
from simulator.validation.answer import answers
from simulator.validation.budget import budget, measured_arrivals
from simulator.validation.compare import Question
from simulator.validation.figures import figures
from simulator.validation.latency import latency_section
from simulator.validation.repeats import check_repeats
from simulator.validation.replay import replay
from simulator.validation.retime import predicted_ns, retimed
from simulator.validation.series import series
from simulator.validation.setup import setup_of
from simulator.validation.spread import spreads
from simulator.validation.validate import validate
from tests.simulator.validation.made import MS, real
from traces.errors import TraceError
from traces.generate import generate
from traces.real_runs.base import EngineSettings, RealRun
from traces.real_runs.our_run import from_run
from traces.records.run import Run

RECORDS = ("requests", "steps", "tokens", "decisions")
TRUTH = {
    "preset": "vllm",
    "device": {"name": "h200"},
    "kv": {"capacity_tokens": 30_000},
    "policy": {"context_limit": 8_192},
}


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


def test_steps_with_rows_of_unlike_length_take_what_they_took():
    """A short rest of a long cached prompt beside a new prompt is no two rows of the mean length."""
    work = generate("mooncake-conversation", n=80, seed=0, rate=4.0)
    config = TRUTH | {"preset": "sglang", "kv": {"capacity_tokens": 300_000}, "policy": {}}
    steps = Steps.of(simulate(work, config, records=RECORDS))
    several = steps.prefill_requests > 1
    assert several.sum() > 5
    said = predicted_ns(Plan.of(as_config(config)).latency, steps)
    assert said[several] == pytest.approx(steps.duration_ns[several], rel=0.02)


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
