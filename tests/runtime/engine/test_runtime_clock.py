"""The clocks of a run: the wall's, and the CPU time that the process was given."""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING

import pytest

from policies.config import ConfigError
from runtime import Engine, load_model, replay
from runtime.clock import Clock, CpuClock
from traces import SyntheticTokens, TraceRequest, Workload

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

MS = 1_000_000
S = 1_000 * MS


def test_cpu_time_stands_still_while_others_run_and_leaps_over_waits() -> None:
    clock, wall = CpuClock(), Clock()
    time.sleep(0.2)
    assert wall.now() >= 200 * MS
    assert clock.now() < 100 * MS
    before, began = clock.now(), wall.now()
    assert clock.wait(60 * S, Event()) is False
    assert 60 * S <= clock.now() - before < 61 * S
    assert wall.now() - began < S


def test_a_wait_says_that_it_was_stopped() -> None:
    stopped = Event()
    stopped.set()
    assert Clock().wait(60 * S, stopped)
    assert CpuClock().wait(60 * S, stopped)


def test_a_trace_on_cpu_time_does_not_wait_for_arrivals(tiny_model: TinyModel) -> None:
    loaded = load_model(tiny_model("llama"), dtype="float32")
    requests = [
        TraceRequest(f"r{i}", i * 60 * S, SyntheticTokens(i, 8), SyntheticTokens(i, 4))
        for i in range(3)
    ]
    config = {"runtime": {"clock": "cpu"}, "kv": {"capacity_tokens": 64}}
    began = time.monotonic()
    run = replay(Workload("far apart", requests), config, loaded=loaded)
    assert time.monotonic() - began < 60
    rows = run.requests.sort_values("arrival_ns")
    assert rows.arrival_ns.tolist() == [0, 60 * S, 120 * S]
    assert (rows.finish_ns > rows.arrival_ns).all()
    assert (rows.finish_ns < rows.arrival_ns + 30 * S).all()
    assert run.manifest["config"]["runtime"]["clock"] == "cpu"


def test_clients_live_by_the_wall(tiny_model: TinyModel) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.clock: cpu is for replayed traces"):
        Engine(model={"path": str(tiny_model("llama"))}, runtime={"clock": "cpu"})
