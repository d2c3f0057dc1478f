"""Hypothesis strategies: random policies, and workloads that crowd a small KV pool."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from policies import PolicyConfig
from tests.policies.world import EOS, Client

if TYPE_CHECKING:
    from collections.abc import Mapping

ORDERS = (
    "fcfs",
    "lpm",
    "dfs-weight",
    "lof",
    "random",
    "hrrn",
    "shortest-prefill-first",
    "routing-key",
    "fair",
)
EVICTIONS = ("lru", "lfu", "fifo", "filo", "mru", "priority", "slru")
SMALL_IN_BATCH = {"in_batch_check": 4, "in_batch_share": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "lpm": {**SMALL_IN_BATCH, "fallback_queue": 4},
    "hrrn": {**SMALL_IN_BATCH, "fallback_queue": 4},
    "shortest-prefill-first": SMALL_IN_BATCH,
}
ALPHABET = (3, 4, 5, 6)


@dataclass(frozen=True)
class Case:
    """A policy, a pool and a workload."""

    policy: PolicyConfig
    capacity: int
    clients: tuple[Client, ...]
    aborts: Mapping[int, tuple[str, ...]]


@st.composite
def policies(draw: st.DrawFn, /, **fixed: Any) -> PolicyConfig:
    """A policy; what `fixed` names is not drawn."""
    page = fixed.get("page_size") or draw(st.sampled_from((1, 4, 16)))
    cache = fixed.get("cache") or draw(st.sampled_from(("radix", "radix", "radix", "none")))
    orders = [o for o in ORDERS if cache == "radix" or o != "shortest-prefill-first"]
    order = fixed.get("order") or draw(st.sampled_from(orders))
    chunks = [None, *(n for n in (2, 5, 8, 16, 24, 48) if n >= page)]
    drawn: dict[str, Any] = {
        "order": order,
        "order_options": OPTIONS.get(order, {}),
        "batching": draw(st.sampled_from(("prefill-first", "mixed", "static"))),
        "overlap": draw(st.sampled_from(("serial", "overlapped"))),
        "page_size": page,
        "cache": cache,
        "eviction": draw(st.sampled_from(EVICTIONS)),
        "retraction": draw(st.sampled_from(("fewest-outputs", "priority", "last-in"))),
        "chunked_prefill_size": draw(st.sampled_from(chunks)),
        "max_prefill_tokens": draw(st.sampled_from((8, 32, 1000))),
        "prefill_max_requests": draw(st.sampled_from((None, None, 1, 2))),
        "prefill_decode_interval": draw(st.sampled_from((0, 0, 1, 3))),
        "prefill_decode_interval_min_batch": draw(st.sampled_from((0, 2))),
        "max_running_requests": draw(st.sampled_from((1, 2, 4, 6, 8))),
        "max_queued_requests": draw(st.sampled_from((None, None, 3))),
        "new_token_ratio": {
            "conservativeness": draw(st.sampled_from((0.05, 0.05, 0.5, 1.0))),
            "retract_decode_steps": draw(st.sampled_from((0, 3, 20))),
        },
        "waiting_refresh_interval": draw(st.sampled_from((0, 1, 3))),
        "accidents": draw(st.sampled_from(("reference", "none"))),
        "priority": {
            "enabled": draw(st.sampled_from((True, False))),
            "low_values_first": draw(st.booleans()),
            "preemption": draw(st.sampled_from((True, True, False))),
            "preemption_threshold": draw(st.sampled_from((0, 1))),
        },
    }
    return PolicyConfig(**{**drawn, **fixed})


@st.composite
def clients(draw: st.DrawFn, index: int, longest: int, outputs: tuple[int, int], at: int) -> Client:
    """A client whose prompt begins as those of its family do, so that prefixes are shared.

    Args:
        draw: Hypothesis'.
        index: makes its name.
        longest: tokens its prompt may have.
        outputs: tokens it asks for, at least and at most.
        at: step of its arrival.
    """
    family = draw(st.integers(0, 2))
    length = draw(st.integers(1, longest))
    shared = draw(st.integers(0, length))
    seed = draw(st.integers(0, 3))
    base = random.Random(family).choices(ALPHABET, k=shared)
    tail = random.Random(100 * family + seed).choices(ALPHABET, k=length - shared)
    wanted = draw(st.integers(*outputs))
    stop = draw(st.none() | st.integers(1, wanted))
    answer = random.Random(10 + seed).choices(ALPHABET, k=wanted)
    if stop is not None:
        answer[stop - 1] = EOS
    return Client(
        f"r{index}",
        tuple(base + tail),
        tuple(answer),
        wanted,
        at,
        ignore_eos=draw(st.sampled_from((False, False, True))),
        priority=draw(st.sampled_from((None, -2, 0, 1, 2, 5))),
        extra_key=draw(st.sampled_from((None, None, "a"))),
        routing_key=draw(st.sampled_from((None, "x", "y"))),
    )


@st.composite
def cases(draw: st.DrawFn, /, *, aborts: bool = True, **fixed: Any) -> Case:
    """A policy with a workload for it; what `fixed` names of the policy is not drawn."""
    policy = draw(policies(**fixed))
    page = policy.page_size
    capacity = draw(st.integers(3 * page + 6, 8 * page + 80))
    if draw(st.booleans()):  # admitted on a small reserve, they outgrow the pool together
        longest, outputs = max(2, capacity // 8), (capacity // 3, capacity)
    else:
        longest = draw(st.sampled_from((capacity // 4, capacity // 2, capacity + 1)))
        outputs = (1, longest)
    gaps = draw(st.lists(st.sampled_from((0, 0, 1, 3, 40)), min_size=2, max_size=10))
    arriving, at = [], 0
    for index, gap in enumerate(gaps):
        at += gap
        arriving.append(draw(clients(index, longest, outputs, at)))
    given_up: dict[int, tuple[str, ...]] = {}
    if aborts:
        for _ in range(draw(st.integers(0, 4))):
            victim = draw(st.sampled_from(arriving))
            step = victim.arrival + draw(st.integers(0, 12))
            given_up[step] = (*given_up.get(step, ()), victim.id)
    return Case(policy, capacity, tuple(arriving), given_up)
