"""Two tenants on a simulated H200: what docs/fairness.md shows, in short."""

import pytest

from benchmarks.fairness import BATCHINGS, OUTPUT, PROMPT, figures, two_tenants
from simulator import simulate

RUNNING = 8
BOUND = 2 * max(PROMPT[1], 2 * RUNNING * (PROMPT[1] + OUTPUT[1]))


def run(order, batching, light, heavy):
    policy = {"order": order, "batching": batching, "cache": BATCHINGS[batching]}
    return figures(
        simulate(
            two_tenants(light, heavy, seconds=5),
            {"policy": policy | {"max_running_requests": RUNNING}},
            records=("requests", "tokens"),
        ).requests
    )


@pytest.mark.parametrize("batching", BATCHINGS)
def test_both_overload(batching):
    fair, fcfs = (run(order, batching, 10, 40) for order in ("fair", "fcfs"))
    assert fair["difference"] <= BOUND < fcfs["difference"]
    assert fair["light"] == pytest.approx(fair["heavy"], rel=0.05)
    assert fcfs["light"] == pytest.approx(fcfs["heavy"] / 4, rel=0.3)
    assert fair["tokens_s"] == pytest.approx(fcfs["tokens_s"], rel=0.02)


def test_the_one_within_its_share_does_not_wait_for_the_other():
    fair, fcfs = (run(order, "mixed", 2.5, 20) for order in ("fair", "fcfs"))
    assert fair["ttft_p99_s"] < 2 < fcfs["ttft_p50_s"]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_leaping_over_rounds_changes_no_turn(batching):
    policy = {"order": "fair", "batching": batching, "cache": BATCHINGS[batching]}
    policy |= {"max_running_requests": RUNNING, "order_options": {"weights": {"light": 3}}}
    workload = two_tenants(10, 40, seconds=2)
    leapt, walked = (simulate(workload, {"policy": policy}, leap=leap) for leap in (True, False))
    assert leapt.requests.equals(walked.requests)
    assert leapt.steps.equals(walked.steps)
