"""The speed benchmarks measure what they say, on a few requests; how fast it is, they print."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import million, peer, scheduling, simulator
from benchmarks.cases import HEADER, Figures, in_own_process
from policies.config import PolicyConfig


def test_a_figures_line_stands_below_its_header() -> None:
    figures = Figures(requests=1_200, steps=60_000, start_s=0.5, cpu_s=2.0, peak_mb=150.4)
    line = figures.line("Azure", "goal 10,000")
    assert figures.requests_per_s == 600
    assert figures.steps_per_s == 30_000
    assert line.startswith("Azure ")
    assert line.endswith("  goal 10,000")
    assert len(line) == len(HEADER) + len("  goal 10,000")


def test_a_case_runs_in_a_process_of_its_own() -> None:
    case = {"kind": "steady", "requests": 3, "steps": 90, "settings": [], "leap": True}
    figures = in_own_process("benchmarks.simulator", {**case, "records": ["requests", "steps"]})
    assert figures.requests == 3
    assert 90 <= figures.steps < 100
    assert 0 < figures.cpu_s < figures.start_s + 5
    assert figures.peak_mb > 30


def test_leapt_and_walked_decodes_take_the_same_steps() -> None:
    steps = [
        simulator.steady_decode(4, 300, [], ("requests",), leap=leap).steps
        for leap in (True, False)
    ]
    assert steps[0] == steps[1] >= 300


def test_a_case_that_fails_is_told_with_its_reason() -> None:
    with pytest.raises(SystemExit, match="no-such-preset"):
        in_own_process("benchmarks.million", {"preset": "no-such-preset", "requests": 1})


def test_a_stream_of_requests_is_simulated_whole() -> None:
    assert million.simulate_stream("azure-conversation", 40).requests == 40


def test_the_radix_cache_is_emptied_again() -> None:
    for known in (False, True):
        times = scheduling.radix_times(30, 16, known=known)
        assert len(times["insert"].taken_ns) == len(times["match"].taken_ns) == 30
        assert times["evict 512"].taken_ns


@pytest.mark.parametrize("case", scheduling.CASES, ids=lambda case: case.name)
def test_every_policy_is_timed_with_its_queue_at_one_length(case: scheduling.Case) -> None:
    PolicyConfig.model_validate(case.policy)
    queue = scheduling.SteadyQueue(case.policy, running=4, waiting=6)
    for _ in range(700):
        queue.step()
        queue.refill()
    scheduler = queue.scheduler
    assert len(scheduler.running) + len(scheduler.waiting) in range(7, 11)
    assert len(scheduler.waiting) >= 5
    assert scheduler.iteration > 690
    assert len(scheduling.step_times(case.policy, 4, 6, 5).taken_ns) == 5


def test_where_the_peer_is_missing_it_says_how_to_get_it() -> None:
    if peer.why_not(sys.executable) is None:
        pytest.skip("the peer is installed")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peer"],
        capture_output=True,
        text=True,
        check=False,
        cwd=peer.ROOT,
    )
    assert done.returncode == 1
    assert "pip install ai-dynamo==1.4.2 ai-dynamo-runtime==1.4.2" in done.stderr
