"""Data parallelism: ranks are whole schedulers, share what arrives, and step together."""

from __future__ import annotations

import numpy as np
import pytest

from policies.config import ConfigError
from simulator.calibration.fitting import calibrate
from simulator.data_parallel import simulate_ranks
from simulator.latency.base import LatencyModel, StepShape
from simulator.routing import ROUTERS, LeastLoaded, RoundRobin
from simulator.simulation import simulate
from tests.simulator.calibration.truth import recorded
from tests.simulator.calibration.truth import work as work_to_calibrate
from traces.generate import generate
from traces.records.run import load_run
from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest, Workload

CONFIG = {"preset": "vllm", "kv": {"capacity_tokens": 60_000}}


class PerToken(LatencyModel):
    """A millisecond a token; a step of nothing takes nothing."""

    def step_ns(self, shape: StepShape) -> int:
        return 1_000_000 * (shape.decode_requests + sum(new for new, _ in shape.prefill))


def request(name: str, arrival_ms: int, prompt: int, output: int) -> TraceRequest:
    key = 2 * int(name[1:])
    return TraceRequest(
        name, arrival_ms * 1_000_000, SyntheticTokens(key, prompt), SyntheticTokens(key + 1, output)
    )


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        {**CONFIG, "policy": {"overlap": "serial"}},
        {"preset": "sglang", "kv": {"capacity_tokens": 40_000}},
    ],
    ids=["overlapped", "serial", "prefill-first"],
)
def test_one_rank_is_a_single_engine(config):
    work = generate("mooncake-conversation", n=60, seed=1)
    alone, group = simulate(work, config, leap=False), simulate_ranks(work, config, ranks=1)
    assert group.requests.equals(alone.requests)
    assert group.steps.equals(alone.steps)


@pytest.mark.parametrize("concurrency", [None, 7])
def test_every_request_is_served_once_by_some_rank(concurrency):
    work = generate("azure-conversation", n=60, seed=2)
    config = CONFIG | {"workload": {"loop": "closed", "concurrency": concurrency or 60}}
    run = simulate_ranks(work, config, ranks=3)
    assert sorted(run.requests["id"]) == sorted(r.id for r in work)
    assert run.manifest["counts"]["finished"] == 60
    again = simulate_ranks(work, config, ranks=3)
    assert again.requests.equals(run.requests)
    assert again.steps.equals(run.steps)


def test_ranks_begin_and_end_their_steps_together():
    work = generate("mooncake-conversation", n=40, seed=4, rate=20.0)
    steps = simulate_ranks(work, CONFIG, ranks=2).steps
    busy = steps[steps["mode"] != "empty"]
    spans = busy.groupby("start_ns")["end_ns"].nunique()
    assert (spans == 1).all()
    both = busy["start_ns"].value_counts()
    assert (both == 2).mean() > 0.9  # with this much work hardly a step is of one rank alone
    starts = np.sort(busy["start_ns"].unique())
    ends = busy.groupby("start_ns")["end_ns"].first().to_numpy()
    assert (starts[1:] >= ends[:-1]).all()


def test_a_step_takes_as_long_as_its_slowest_rank_and_a_sleeping_one_holds_nobody_up():
    # the first goes to rank 0, the second to rank 1, which then sleeps for good
    work = Workload("two", [request("r1", 0, 100, 3), request("r2", 0, 40, 1)])
    free = {"preset": "vllm", "host": {"preset": "production"}, "kv": {"capacity_tokens": 4096}}
    run = simulate_ranks(work, free, ranks=2, latency=PerToken(), routing="round-robin")
    steps = run.steps[run.steps["mode"] != "empty"]
    took = ((steps["end_ns"] - steps["start_ns"]) / 1e6).tolist()
    assert sorted(took) == [1, 1, 100, 100]
    first = run.requests.set_index("id")["first_token_ns"]
    assert abs(first["r1"] - first["r2"]) < 1e6  # the short prompt waited for the long one


def test_steps_beyond_what_was_measured_are_told_as_of_a_single_engine(tmp_path):
    measured = work_to_calibrate(1, 60, rate=10)
    path = tmp_path / "p.json"
    calibrate([recorded(measured, 0.02)]).profile.save(path)
    config = {"latency": {"model": "calibrated", "profile": str(path)}}
    config["policy"] = {"chunked_prefill_size": None}
    larger = work_to_calibrate(2, 80, rate=25, prompt=1200)
    alone, one = simulate(larger, config), simulate_ranks(larger, config, ranks=1)
    assert alone.manifest["flags"]
    assert one.manifest["flags"] == alone.manifest["flags"]
    two = simulate_ranks(larger, config, ranks=2, out=tmp_path / "two")
    assert sum(two.manifest["flags"].values()) > 0
    assert "not measured: " in " ".join(str(load_run(tmp_path / "two")).split())


def test_the_front_end_sends_to_whoever_has_least_and_counts_what_it_sent():
    router = LeastLoaded()
    counts = [(0, 9), (2, 0)]  # 9 against 8
    assert router.choose(0, lambda: counts) == 1
    assert router.choose(1, lambda: counts) == 0  # 9 against 12, as it sent one there
    assert router.choose(2, lambda: [(0, 0), (0, 0)]) == 1  # 13 against 12: not told anew yet
    assert router.choose(200_000_000, lambda: [(0, 0), (0, 0)]) == 0


def test_round_robin_takes_turns():
    router = RoundRobin()
    assert [router.choose(i, lambda: [(0, 0)] * 3) for i in range(4)] == [0, 1, 2, 0]


def test_unknown_routing_and_no_rank_are_errors():
    work = Workload("one", [request("r1", 0, 10, 1)])
    with pytest.raises(ValueError, match=", ".join(ROUTERS)):
        simulate_ranks(work, CONFIG, ranks=2, routing="random")
    with pytest.raises(ValueError, match="at least 1"):
        simulate_ranks(work, CONFIG, ranks=0)
    with pytest.raises(ConfigError):
        simulate_ranks(work, {"kv": {"capacity_tokens": 1}}, ranks=1)
