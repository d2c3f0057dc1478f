"""Steps that fail: a clear error for whom it hits, right answers for all others, and nothing hangs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from policies.request import FinishReason
from policies.stuck import StuckError
from runtime.executor import StepError
from tests.runtime.engine.fakes import Bench, FakeModel
from tests.runtime.engine.test_runtime_world import FAMILIES, policy

if TYPE_CHECKING:
    from tests.runtime.engine.fakes import Asked

BAD = 96  # a token at which the kernel fails; no answer below holds it


def device_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("runtime-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    yield
    assert device_threads() == []


def ask_many(bench: Bench, bad_at: int, count: int = 9) -> tuple[list[Asked], Asked]:
    good = []
    for i in range(count):
        if i == bad_at:
            bad = bench.ask("bad", [5, 6, BAD, 7], 8)
        job = bench.ask(f"r{i}", [1 + i, 2, 3, 4 + i], 12, max_expected_token=BAD)
        good.append(job)
    return good, bad


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("family", FAMILIES)
def test_who_is_not_in_flight_goes_on(family: str, overlap: str) -> None:
    bench = Bench(policy(family, overlap=overlap, max_running_requests=2), 96, model=FakeModel(BAD))
    good, bad = ask_many(bench, 4)
    bench.run()
    assert bench.world.failures == 1
    assert bad.request.finish_reason is FinishReason.ABORT
    assert bad.error is not None
    assert "RuntimeError: kernel failed on token 96" in bad.error
    for job in good:
        assert job.listener.finished == 1
        if job.error is None:
            assert job.output().tolist() == job.expected
    assert sum(job.error is not None for job in good) <= 3, "only those in flight fail with it"
    assert sum(job.error is None for job in good) >= 6


@pytest.mark.parametrize("family", FAMILIES)
def test_who_runs_but_is_not_in_the_step_is_computed_again(family: str) -> None:
    """Under prefill-first those who decode sit a prefill step out: its failure is not theirs."""
    bench = Bench(policy(family, overlap="serial"), 160, model=FakeModel(BAD))
    running = [bench.ask(f"r{i}", [1 + i, 2, 3], 20, max_expected_token=BAD) for i in range(3)]

    class SendsBad:
        finished = 0

        def token(self, job: Any, token: int) -> None:
            if job.request.output_len == 5:
                self.bad = bench.ask("bad", [9, BAD, 9], 4)

        def ended(self, job: Any, now_ns: int) -> None:
            self.finished += 1

    running[0].listener = sender = SendsBad()
    bench.run()
    assert sender.bad.error is not None
    if family == "prefill-first":
        assert [job.output().tolist() for job in running] == [job.expected for job in running]
        assert all(job.request.retractions == 1 for job in running)
    else:
        for job in running:
            output = job.output().tolist()
            assert output == job.expected[: len(output)]
            assert job.error is not None or output == job.expected


def test_a_device_that_is_lost_stops_the_world() -> None:
    model = FakeModel(BAD, torch.AcceleratorError)
    bench = Bench(policy("prefill-first"), 96, model=model)
    bench.ask("bad", [5, BAD], 4)
    with pytest.raises(StepError, match="AcceleratorError: kernel failed"):
        bench.run()
    assert len(bench.queue.abandon()) == 1, "who waits can still be told"


def test_running_out_of_memory_says_what_would_help() -> None:
    bench = Bench(policy("prefill-first"), 96, model=FakeModel(BAD, torch.OutOfMemoryError))
    bad = bench.ask("bad", [5, BAD], 4)
    bench.run()
    assert bad.error is not None
    assert "ran out of memory in a step (kernel failed on token 96)" in bad.error
    assert "kv.mem_fraction" in bad.error


def test_a_scheduler_that_plans_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(policy("prefill-first"), 96)
    bench.ask("a", [1, 2, 3], 4)
    monkeypatch.setattr(bench.world.scheduler.batching, "next_batch", lambda _: None)
    with pytest.raises(StuckError, match="planned no batch in 10000 rounds"):
        bench.run()


def test_an_error_of_a_policy_ends_the_world_and_its_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(policy("prefill-first"), 96)
    bench.ask("a", [1, 2, 3], 4)

    def broken(s: Any) -> None:
        raise ZeroDivisionError("a policy's own mistake")

    monkeypatch.setattr(bench.world.scheduler.batching, "next_batch", broken)
    with pytest.raises(ZeroDivisionError):
        bench.run()


def test_the_executor_runs_in_order_and_ends_twice() -> None:
    bench = Bench(policy("prefill-first"), 96)
    job = bench.ask("a", [1, 2, 3], 4)
    bench.run()
    bench.executor.close()
    assert job.output().tolist() == job.expected
    with pytest.raises(RuntimeError, match="closed"):
        bench.executor.launch(None, ())  # type: ignore[arg-type]
