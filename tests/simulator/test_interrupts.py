"""Ctrl-C ends a simulation between two rounds, and what it leaves behind agrees with itself."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from policies.batching.prefill_first import PrefillFirst
from simulator import simulate
from simulator.interrupts import interrupts_between_rounds
from traces.records.run import load_run

if TYPE_CHECKING:
    from pathlib import Path

    from policies.batch import Batch
    from policies.scheduler import Scheduler


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_the_next_round() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_between_rounds() as on_round:
        on_round()
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            on_round()
        on_round()  # it was raised once
    assert signal.getsignal(signal.SIGINT) is before


def test_one_that_comes_in_the_last_round_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_between_rounds():
        interrupt()


def test_who_waits_in_vain_may_insist() -> None:
    with interrupts_between_rounds() as on_round:
        interrupt()
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        on_round()  # that was all


def test_another_thread_is_left_alone() -> None:
    found: list[Any] = []

    def look() -> None:
        before = signal.getsignal(signal.SIGINT)
        with interrupts_between_rounds() as on_round:
            on_round()
            found.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [True]


def test_what_is_left_behind_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the middle of planning: the round is finished first."""
    plan = PrefillFirst.next_batch
    planned = 0

    def interrupted(self: PrefillFirst, s: Scheduler) -> Batch | None:
        nonlocal planned
        planned += 1
        if planned == 300:
            interrupt()
        return plan(self, s)

    monkeypatch.setattr(PrefillFirst, "next_batch", interrupted)
    records = ("requests", "steps", "tokens")
    with pytest.raises(KeyboardInterrupt):
        simulate("azure-conversation", limit=400, records=records, out=tmp_path / "run")
    assert planned < 310
    run = load_run(tmp_path / "run")
    assert run.status == "interrupted"
    ended = run.requests[run.requests["finish_reason"].notna()]
    assert len(ended) > 10
    assert (ended["token_times_ns"].map(len) == ended["output_tokens"]).all()
    assert len(run.steps) == run.manifest["counts"]["steps"]
