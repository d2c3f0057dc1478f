"""Every order with every batching, loop, page size and cache, on the start of real traces.

The pool is small enough for evictions throughout, and the scheduler checks its invariants every 50
rounds. Evictions take turns: there are seven of them and eight orders, so each meets each.
"""

from __future__ import annotations

from itertools import cycle, product

import pytest

from policies import EVICTIONS, ORDERS
from policies.config import make_config
from simulator import Plan, SimulatorConfig
from tests.simulator.checks import (
    check_gauges,
    check_itl,
    check_requests,
    check_steps_on_the_clock,
    check_token_times,
    columns_of,
)
from tests.simulator.full.shared import AZURE, MOONCAKE, needs_traces
from tests.simulator.harness import play
from traces import read_trace

pytestmark = [pytest.mark.slow, needs_traces]

LOOPS = ("serial", "overlapped")
EVICTING = cycle(EVICTIONS.names())
POLICIES: list[dict[str, object]] = [
    {
        "order": order,
        "batching": batching,
        "overlap": overlap,
        "page_size": page,
        "cache": cache,
        "eviction": next(EVICTING),
    }
    for batching, overlap, (page, cache), order in product(
        ("prefill-first", "mixed", "static"),
        LOOPS,
        ((1, "radix"), (16, "radix"), (1, "none")),
        ORDERS.names(),
    )
    if (order, cache) != ("shortest-prefill-first", "none")
]
WORK = {
    "azure": (AZURE, 300, 4.0, 30_000),
    "mooncake": (MOONCAKE, 100, 1.0, 150_000),
}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: "-".join(map(str, policy.values())))
@pytest.mark.parametrize("name", WORK)
def test_any_policy_serves_a_real_trace(name: str, policy: dict[str, object]) -> None:
    path, limit, speedup, capacity = WORK[name]
    work = read_trace(path, limit=limit).speedup(speedup)
    sections = {"policy": policy, "kv": {"capacity_tokens": capacity}}
    config = make_config(SimulatorConfig, sections)
    plan = Plan.of(config)
    records = ("requests", "steps", "tokens")
    played = play(
        work,
        plan.policy,
        plan.kv_capacity,
        plan.latency,
        host=config.host,
        records=records,
        check_every=50,
    )
    check_requests(played)
    check_token_times(played)
    check_itl(played)
    check_steps_on_the_clock(played.run)
    check_gauges(played.run)
    if policy["cache"] == "radix":
        assert columns_of(played.run, "steps")["evicted_tokens"].sum() > 0
