"""A run whose KV is full is followed by a scheduler of the same rules, however long its steps take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.validation_steps.followed import (
    Followed,
    LateHost,
    as_continued,
    follow,
    placed,
    same_memory,
    stretches,
)
from simulator.config import Plan
from simulator.host import HostModel
from simulator.simulation import as_config
from traces.generate import generate
from traces.real_runs import RealSeries
from traces.tokens import ExplicitTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

CAPACITY = 12_000
FULL: dict[str, Any] = {
    "preset": "vllm",
    "kv": {"capacity_tokens": CAPACITY},
    "policy": {"context_limit": 8_192, "batching_options": {"max_num_batched_tokens": 2_048}},
}


def plan(device: str = "h200", **policy: Any) -> Plan:
    config = {**FULL, "device": {"name": device}, "policy": {**FULL["policy"], **policy}}
    return Plan.of(as_config(config))


def instants(followed: Followed) -> dict[str, tuple[float, float]]:
    """First and last tokens of a run that stands for a real one, seconds."""
    table = followed.run.requests
    times = (table["first_token_ns"] / 1e9, table["finish_ns"] / 1e9)
    return dict(zip(table["id"], zip(*times, strict=True), strict=True))


@pytest.fixture(scope="module")
def work() -> Workload:
    """Far more at once than there is room for."""
    sent = generate("azure-conversation", n=60, seed=3, rate=15.0)
    return replace(sent, requests=[replace(request, arrival_ns=0) for request in sent])


@pytest.fixture(scope="module")
def real(work: Workload) -> Followed:
    return follow(work, plan("a100"))


def test_a_faster_device_takes_the_same_steps(work: Workload, real: Followed) -> None:
    found = follow(work, plan("h200"))
    assert found.run.requests["retractions"].sum() > 5
    where = placed(found, instants(real))
    assert where.first_wrong is None
    assert len(found.run.steps) == len(real.run.steps)
    known = stretches(found, where)
    first, *_, last = where.instants.values()
    assert sum(s.seconds for s in known) == pytest.approx(last - first)
    for ours, theirs in zip(found.shapes, real.shapes, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours[:4] == theirs[:4]
            assert (ours.decode_kv_lens() == theirs.decode_kv_lens()).all()


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: plan(cache="none"), id="no prefix cache"),
        pytest.param(lambda: replace(plan(), kv_capacity=CAPACITY - 32), id="two blocks less"),
    ],
)
def test_other_rules_are_noticed(work: Workload, real: Followed, other: Callable[[], Plan]) -> None:
    found = follow(work, other())
    where = placed(found, instants(real))
    assert where.first_wrong is not None
    assert len(stretches(found, where)) < len(where.instants) - 1


def test_as_full_as_the_run_to_the_token(work: Workload, real: Followed) -> None:
    steps = real.run.steps
    chosen = slice(5, len(steps), 7)
    left = (steps["free_tokens"] + steps["evictable_tokens"]).to_numpy()[chosen]
    at = steps["commit_ns"].to_numpy()[chosen] / 1e9
    seen = RealSeries(at + 2.0, kv_share=np.round(1 - left / CAPACITY, 4))
    found = follow(work, plan("h200"))
    where = placed(found, instants(real))
    # steps before the first instant and after the last have no time of their own
    assert sum(same_memory(found, where, -2.0, seen)) > 0.95 * len(at)
    fuller = replace(seen, kv_share=np.round(1 - (left - 5) / CAPACITY, 4))
    assert not any(same_memory(found, where, -2.0, fuller))


def test_only_the_first_launch_is_late() -> None:
    host = HostModel()
    late = LateHost(host, 5_000)
    assert [late.launch_ns() - host.launch_ns() for _ in range(3)] == [5_000, 0, 0]
    assert late.commit_ns(3, 1) == host.commit_ns(3, 1)


def test_an_answer_begins_as_the_next_prompt_goes_on() -> None:
    def request(name: str, prompt: list[int]) -> TraceRequest:
        return TraceRequest(name, 0, ExplicitTokens(prompt), ExplicitTokens([7, 8, 9]))

    work = Workload("chat", [request("a", [1, 2]), request("b", [1, 2, 3, 4]), request("c", [1])])
    answers = {r.id: r.output.array().tolist() for r in as_continued(work)}
    assert answers["b"] == [7, 8, 9]
    assert (answers["a"][0], answers["c"][0]) == (3, 2)
    assert answers["a"][1:] != [8, 9]
    assert len(answers["a"]) == 3
