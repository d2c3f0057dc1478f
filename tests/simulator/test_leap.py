"""Leaping over rounds in which nothing is decided leaves every table as walking does, to the byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.batch import Cohort, DecodeRows, Mode
from policies.request import Request
from simulator import Plan, SimulatorConfig, StepShape, simulate
from simulator.model import ReplayedModel, ReplayTokens
from traces import BlockTokens, SyntheticTokens, TraceRequest, Workload

if TYPE_CHECKING:
    from policies.batch import Batch
    from policies.effects import Launch
    from simulator.device import Ticket

MS = 1_000_000
ORDERS = (
    *("fcfs", "lpm", "lof", "hrrn", "fair"),
    *("random", "routing-key", "shortest-prefill-first", "dfs-weight"),
)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Requests that share prefixes, stop by themselves, give up, and come in bursts or far apart."""
    requests = []
    clock = 0
    for i in range(draw(st.integers(1, 14))):
        clock += draw(st.sampled_from([0, 0, 1, 30 * MS, 400 * MS]))
        blocks = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
        prompt = BlockTokens(
            np.array(blocks), 16, draw(st.integers(16 * len(blocks) - 15, 16 * len(blocks)))
        )
        output = draw(st.integers(1, 60))
        requests.append(
            TraceRequest(
                f"r{i:02}",
                clock,
                prompt,
                SyntheticTokens(i, output),
                output + draw(st.sampled_from([0, 0, 1, 25])),
                ignore_eos=draw(st.booleans()),
                priority=draw(st.sampled_from([None, 0, 20])),
                abort_ns=draw(st.sampled_from([None, None, clock + 90 * MS])),
            )
        )
    return Workload("random", requests)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """Policies of every kind, with little memory."""
    decode_first = draw(st.booleans())
    batching = (
        "decode-first"
        if decode_first
        else draw(st.sampled_from(["prefill-first", "mixed", "static"]))
    )
    cached = "blocks" if decode_first else "radix"
    policy: dict[str, Any] = {
        "batching": batching,
        "cache": draw(st.sampled_from([cached, cached, "none"])),
        "overlap": draw(st.sampled_from(["overlapped", "serial"])),
        "page_size": draw(st.sampled_from([1, 4, 16])),
        "max_running_requests": draw(st.sampled_from([2, 6, 20])),
        "order": draw(st.sampled_from(ORDERS)),
    }
    if policy["order"] == "dfs-weight" and policy["cache"] != "radix":
        policy["order"] = "fcfs"  # it walks a tree
    if policy["order"] == "shortest-prefill-first" and policy["cache"] == "none":
        policy["order"] = "fcfs"  # it asks what is cached
    if decode_first:
        policy["batching_options"] = {
            "max_num_batched_tokens": draw(st.sampled_from([20, 64, 512]))
        }
    else:
        policy["chunked_prefill_size"] = draw(st.sampled_from([16, 48, None]))
        policy["priority"] = {"enabled": draw(st.booleans())}
    return policy


def tables(work: Workload, config: dict[str, Any], *, leap: bool) -> dict[str, Any]:
    run = simulate(work, config, leap=leap, records=("requests", "steps", "tokens"))
    return {
        "requests": run.arrow("requests").to_pydict(),
        "steps": run.arrow("steps").to_pydict(),
        "manifest": run.manifest,
    }


@given(
    workloads(),
    policies(),
    st.integers(120, 600),
    st.sampled_from(["zero", "production"]),
    st.sampled_from([None, 3]),
)
def test_leaping_and_walking_are_the_same(
    work: Workload, policy: dict[str, Any], capacity: int, host: str, concurrency: int | None
) -> None:
    config = {
        "policy": policy,
        "kv": {"capacity_tokens": capacity},
        "host": {"preset": host},
        "workload": {"concurrency": concurrency},
    }
    walked = tables(work, config, leap=False)
    leapt = tables(work, config, leap=True)
    for table in ("requests", "steps"):
        for column, values in walked[table].items():
            assert leapt[table][column] == values, f"{table}.{column}"
    assert leapt["manifest"] == walked["manifest"]


@pytest.mark.parametrize("batching", ["prefill-first", "decode-first"])
@pytest.mark.parametrize("overlap", ["overlapped", "serial"])
def test_a_steady_decode_is_leapt_over(
    batching: str, overlap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the test above could hold because nothing ever leaps."""
    from simulator.latency.roofline import RooflineLatency

    asked = 0
    answer = RooflineLatency.step_ns

    def counted(self: RooflineLatency, shape: StepShape) -> int:
        nonlocal asked
        asked += 1
        return answer(self, shape)

    monkeypatch.setattr(RooflineLatency, "step_ns", counted)
    work = Workload(
        "steady",
        [
            TraceRequest(f"r{i}", 0, SyntheticTokens(i, 30), SyntheticTokens(9 + i, 2000))
            for i in (1, 2)
        ],
    )
    cache = "blocks" if batching == "decode-first" else "radix"
    policy = {"batching": batching, "cache": cache, "overlap": overlap, "page_size": 16}
    run = simulate(work, {"policy": policy})
    assert run.manifest["counts"]["steps"] >= 2000
    assert asked < 40


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches that the world launches one by one."""
    from simulator.world import World

    seen: list[Batch] = []
    launch = World._launch

    def noted(self: World, effect: Launch) -> Ticket:
        seen.append(effect.batch)
        return launch(self, effect)

    monkeypatch.setattr(World, "_launch", noted)
    return seen


@pytest.mark.parametrize("preset", ["sglang", "vllm"])
@pytest.mark.parametrize("overlap", ["overlapped", "serial"])
def test_departures_are_leapt_over(preset: str, overlap: str, launches: list[Batch]) -> None:
    """Members that leave at the length they asked for do not make the world walk."""
    work = Workload(
        "departures",
        [
            TraceRequest(f"r{i:02}", 0, SyntheticTokens(i, 30), SyntheticTokens(99 + i, 10 + 7 * i))
            for i in range(40)
        ],
    )
    run = simulate(work, {"preset": preset, "policy": {"overlap": overlap}})
    assert run.manifest["counts"]["finished"] == 40
    assert run.manifest["counts"]["steps"] > 280
    assert len(launches) < 12


@pytest.mark.parametrize("preset", ["sglang", "vllm"])
def test_evictions_are_leapt_over(preset: str, launches: list[Batch]) -> None:
    """A pool full of what nobody holds any more is as good as an empty one."""
    prompts = [
        TraceRequest(f"r{i:02}", i * 10**9, SyntheticTokens(i, 64), SyntheticTokens(99 + i, 2))
        for i in range(20)
    ]
    long = TraceRequest("long", 30 * 10**9, SyntheticTokens(50, 64), SyntheticTokens(60, 900))
    config = {"preset": preset, "policy": {"page_size": 16}, "kv": {"capacity_tokens": 1600}}
    run = simulate(Workload("evictions", [*prompts, long]), config)
    decode = run.steps[run.steps["mode"] == "decode"]
    assert (decode["evicted_tokens"] > 0).sum() > 10
    assert sum(batch.mode is Mode.DECODE for batch in launches) <= len(prompts) + 2


def test_a_row_that_joined_again_stops_once() -> None:
    """It was expected to stop twice: once for each time it joined."""
    tokens = ReplayTokens(SyntheticTokens(1, 10), SyntheticTokens(2, 5))
    request, model = Request("r", tokens, 9), ReplayedModel()
    request._kv_len = 10
    for cohort in (Cohort((request,), (request,), 0, 11), Cohort((request,), (request,), 0, 11)):
        assert model.stopping(DecodeRows(cohort, 0)) == []
    assert model.stopping(DecodeRows(cohort, 3)) == [0]


@given(st.integers(1, 300), st.integers(1, 10**7), st.integers(1, 50))
def test_many_steps_take_what_each_takes(requests: int, kv_tokens: int, steps: int) -> None:
    latency = Plan.of(SimulatorConfig()).latency
    shapes = [
        StepShape((), requests, kv_tokens + i * requests, requests, lambda: np.zeros(0, np.int64))
        for i in range(steps)
    ]
    at_once = latency.decode_steps_ns(requests, kv_tokens, steps, lambda: np.zeros(0, np.int64))
    assert at_once.tolist() == [latency.step_ns(shape) for shape in shapes]
