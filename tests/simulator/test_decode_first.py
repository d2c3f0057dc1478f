"""Decode-first in the simulator: what its `auto` means on which device, and its accidents as errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from policies.config import ConfigError
from policies.engines.vllm import default_limits
from policies.stuck import StuckError
from simulator import Plan, simulate
from simulator.simulation import as_config
from tests.simulator.checks import rows_of
from tests.simulator.harness import MS, crowd, request_of
from traces.workload import Workload

if TYPE_CHECKING:
    from traces.records.run import Run

WORK = crowd(1, 60, 15 * MS, prompt=40, output=8)
VLLM = {"preset": "vllm"}


def plan(**sections: Any) -> Plan:
    return Plan.of(as_config({"preset": "vllm", **sections}))


@pytest.mark.parametrize(
    ("device", "requests", "tokens"),
    [
        ("h200", 1024, 8192),
        ("h100", 1024, 8192),
        ("rtx-pro-6000", 1024, 8192),
        ("a100", 256, 2048),  # 79 GiB, but an A100
        ("l40s", 256, 2048),
        ("rtx-4090", 256, 2048),
    ],
)
def test_auto_is_what_vllm_takes_on_that_device(device: str, requests: int, tokens: int) -> None:
    resolved = plan(device={"name": device}).policy
    assert resolved.max_running_requests == requests
    assert resolved.batching_options["max_num_batched_tokens"] == tokens
    assert resolved.chunked_prefill_size is None


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({"memory_bytes": 180 << 30, "product": "NVIDIA B200"}, (1024, 16384)),
        ({"max_num_seqs": 4}, (4, 8192)),
        ({"max_num_batched_tokens": 500}, (500, 500)),
        ({"chunked_prefill": False}, (1024, 40_000)),  # the longest prompt in one step
        ({"max_num_seqs": 2, "max_model_len": 1000}, (2, 2000)),  # more could never be scheduled
        ({"max_num_seqs": 2, "max_model_len": 1000, "max_num_batched_tokens": 4000}, (2, 4000)),
    ],
)
def test_vllms_limits_bound_each_other(given: dict[str, Any], limits: tuple[int, int]) -> None:
    h200: dict[str, Any] = {
        "memory_bytes": 140 << 30,
        "product": "NVIDIA H200",
        "max_num_seqs": None,
        "max_num_batched_tokens": None,
        "max_model_len": 40_000,
        "chunked_prefill": True,
    }
    assert default_limits(**(h200 | given)) == limits


def test_a_limit_that_is_set_is_kept_and_the_pool_does_not_halve_it() -> None:
    policy = {"max_running_requests": 60}
    assert plan(policy=policy, kv={"capacity_tokens": 64}).policy.max_running_requests == 60
    with pytest.raises(ConfigError, match=r"max_running_requests 60 is above .*tokens 32"):
        plan(policy=policy | {"batching_options": {"max_num_batched_tokens": 32}})
    with pytest.raises(ConfigError, match=r"max_running_requests 3000 is above .*tokens 2048"):
        plan(policy={"max_running_requests": 3000}, device={"name": "a100"})


def test_the_memory_fraction_makes_the_pool() -> None:
    assert plan().kv_capacity > plan(kv={"mem_fraction": 0.9}).kv_capacity
    assert plan().kv_capacity % 16 == 0


def test_a_run_says_its_preset_what_auto_meant_and_what_departs() -> None:
    run = simulate(WORK, {"preset": "vllm", "policy": {"order": "lpm", "page_size": 32}})
    assert run.manifest["config"]["preset"] == "vllm"
    assert run.manifest["resolved"]["batching_options"]["max_num_batched_tokens"] == 8192
    assert run.manifest["resolved"]["max_running_requests"] == 1024
    (departure,) = run.manifest["departures"]
    assert departure.startswith('policy.order is "lpm": vLLM takes requests first come')
    assert simulate(WORK, VLLM).manifest["departures"] == []
    assert simulate(WORK, {"policy": {"order": "lpm"}}).manifest["departures"] == []


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_both_presets_finish_every_request_with_its_tokens(overlap: str) -> None:
    def tokens(run: Run) -> list[tuple[str, int, str]]:
        rows = rows_of(run, "requests")
        return sorted((row["id"], row["output_tokens"], row["finish_reason"]) for row in rows)

    runs = [
        simulate(WORK, {"preset": preset, "policy": {"overlap": overlap}})
        for preset in ("sglang", "vllm")
    ]
    assert tokens(runs[0]) == tokens(runs[1])


# -- the accident of a context limit above the pool ----------------------------------------------


def outgrowing(**accidents: bool) -> dict[str, Any]:
    policy = {"context_limit": 180, "accidents": accidents}
    return {"preset": "vllm", "policy": policy, "kv": {"capacity_tokens": 160}}


def test_a_context_limit_above_the_pool_is_a_config_error_that_names_both() -> None:
    with pytest.raises(ConfigError, match="context_limit 180 is above the 160 tokens"):
        simulate(WORK, outgrowing())


def test_with_the_accident_it_runs_until_a_request_outgrows_the_pool_and_is_then_stuck() -> None:
    works = Workload("fits", [request_of(0, 0, 100, 30)])
    assert simulate(works, outgrowing(context_beyond_pool=True)).status == "complete"
    grows = Workload("grows", [request_of(0, 0, 150, 20)])
    with pytest.raises(StuckError, match=r"batching 'decode-first' .* planned no batch in"):
        simulate(grows, outgrowing(context_beyond_pool=True))


def test_without_chunks_a_step_that_is_too_small_is_a_config_error() -> None:
    options = {"enable_chunked_prefill": False, "max_num_batched_tokens": 2048}
    with pytest.raises(ConfigError, match=r"max_num_batched_tokens \(2048\) must be at least"):
        simulate(WORK, {"preset": "vllm", "policy": {"batching_options": options}})
