"""Recorded traces, whole, and agent sessions: leaping writes the run folder that walking writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simulator import simulate
from tests.simulator.full.shared import AZURE, MOONCAKE, needs_traces
from tests.simulator.full.test_agents import CALLS, WEKA
from traces import read_trace

if TYPE_CHECKING:
    from pathlib import Path

    from traces import Workload

pytestmark = pytest.mark.slow

SESSIONS = 50
POLICIES = {
    "fcfs": [],
    "lpm in pages, steps one after another": [
        "policy.order=lpm",
        "policy.page_size=16",
        "policy.overlap=serial",
    ],
    "mixed, little memory": ["policy.batching=mixed", "kv.capacity_tokens=200000"],
    "vllm": ["preset=vllm"],
}


def assert_the_same_folder(
    work: Workload, settings: list[str], tmp_path: Path, records: tuple[str, ...]
) -> None:
    """Simulate leaping and walking, and compare what is written, byte by byte."""
    leapt, walked = tmp_path / "leapt", tmp_path / "walked"
    for folder, leap in ((leapt, True), (walked, False)):
        simulate(work, settings=settings, records=records, leap=leap, out=folder)
    files = sorted(path.name for path in walked.iterdir())
    assert sorted(path.name for path in leapt.iterdir()) == files
    assert {"manifest.json", "requests.parquet", "steps.parquet"} <= {*files}
    for name in files:
        assert (leapt / name).read_bytes() == (walked / name).read_bytes(), name


@needs_traces
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("path", [AZURE, MOONCAKE], ids=["azure", "mooncake"])
def test_a_whole_trace_leaves_the_same_folder(path: Path, policy: str, tmp_path: Path) -> None:
    work = read_trace(path)
    assert_the_same_folder(work, POLICIES[policy], tmp_path, ("requests", "steps"))


@needs_traces
@pytest.mark.parametrize("policy", POLICIES)
def test_so_does_a_closed_loop(policy: str, tmp_path: Path) -> None:
    work = read_trace(AZURE, limit=3_000)
    settings = [*POLICIES[policy], "workload.concurrency=48"]
    assert_the_same_folder(work, settings, tmp_path, ("requests", "steps", "tokens"))


@pytest.fixture(scope="module")
def agents() -> Workload:
    """Agent sessions, more than are under way at once."""
    work = read_trace(WEKA, limit=CALLS)
    assert len({request.session for request in work}) > SESSIONS
    return work


@pytest.mark.skipif(not WEKA.exists(), reason="the agent sessions are not here")
@pytest.mark.parametrize("policy", ["fcfs", "lpm in pages, steps one after another"])
def test_so_do_fifty_agent_sessions(agents: Workload, policy: str, tmp_path: Path) -> None:
    settings = [*POLICIES[policy], f"workload.concurrency={SESSIONS}"]
    assert_the_same_folder(agents, settings, tmp_path, ("requests", "steps", "tokens"))
