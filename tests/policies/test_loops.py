"""The event loops, effect by effect, with a scheduler that follows a script."""

from __future__ import annotations

from typing import Any

import pytest

from policies import (
    LOOPS,
    Batch,
    Collect,
    Events,
    Inbox,
    Launch,
    Mode,
    PolicyConfig,
    Receive,
    Report,
    Sleep,
    StepResult,
)
from tests.policies.world import EOS, Client, World


class Script:
    """Plans the batches it is given, None for a round without one; idle when they are used up."""

    def __init__(self, *plan: Mode | None, wake_at: int | None = None) -> None:
        self.plan = list(plan)
        self.in_flight: list[Batch] = []
        self.iteration = 0
        self.idled = 0
        self._wake_at = wake_at

    def receive(self, inbox: Inbox) -> Events:
        return Events()

    def next_batch(self) -> Batch | None:
        mode = self.plan.pop(0) if self.plan else None
        self.iteration += 1
        if mode is None:
            return None
        self.in_flight.append(Batch(self.iteration, mode))
        return self.in_flight[-1]

    def commit(self, batch: Batch, result: StepResult) -> Events:
        assert self.in_flight.pop(0) is batch
        return Events(batch)

    def nothing_left(self) -> bool:
        return not self.plan and self.in_flight[-1].mode is Mode.EMPTY

    def is_idle(self) -> bool:
        return not self.plan and not self.in_flight

    def on_idle(self) -> None:
        self.idled += 1

    def wake_at(self) -> int | None:
        return self._wake_at

    def foresee(self, batch: Batch) -> None:
        """Nothing."""


def effects(overlap: str, script: Any) -> list[str]:
    """What a loop yields until it sleeps: `L1` launches batch 1, `C1` collects it, `-` is a round."""
    loop = LOOPS[overlap](script)
    seen: list[str] = []
    answer: Any = None
    for _ in range(100):
        effect = loop.send(answer)
        answer = None
        match effect:
            case Receive():
                seen.append("-")
                answer = Inbox(0)
            case Launch(batch):
                seen.append(f"L{batch.iteration}")
                answer = ("ticket", batch.iteration)
            case Collect((_, iteration)):
                seen.append(f"C{iteration}")
                answer = StepResult()
            case Report(events) if events.batch is not None:
                seen.append(f"R{events.batch.iteration}")
            case Sleep(until):
                seen.append(f"sleep {until}")
                return seen
    raise AssertionError(seen)


D = Mode.DECODE


@pytest.mark.parametrize(
    ("overlap", "plan", "expected"),
    [
        ("serial", (D, D), "- L1 C1 R1 - L2 C2 R2 - sleep None"),
        ("overlapped", (D, D), "- L1 - L2 C1 R1 - C2 R2 - sleep None"),
        ("serial", (D, None, D), "- L1 C1 R1 - - L3 C3 R3 - sleep None"),
        ("overlapped", (D, None, D), "- L1 - C1 R1 - L3 - C3 R3 - sleep None"),
        ("serial", (Mode.EMPTY,), "- L1 C1 R1 - sleep None"),
        ("overlapped", (Mode.EMPTY,), "- L1 C1 R1 - sleep None"),
        ("overlapped", (D, Mode.EMPTY), "- L1 - L2 C1 R1 - C2 R2 - sleep None"),
    ],
)
def test_the_order_of_effects(overlap: str, plan: tuple[Mode | None, ...], expected: str) -> None:
    assert " ".join(effects(overlap, Script(*plan))) == expected


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_a_loop_sleeps_as_long_as_the_scheduler_says(overlap: str) -> None:
    script = Script(wake_at=123)
    assert effects(overlap, script) == ["-", "sleep 123"]
    assert script.idled == 1


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_a_scheduler_with_work_but_no_batch_is_asked_again(overlap: str) -> None:
    assert effects(overlap, Script(None, None, D)).count("-") >= 4


# -- with the real scheduler --------------------------------------------------------------------


def policy(overlap: str) -> PolicyConfig:
    return PolicyConfig(overlap=overlap, max_running_requests=4, chunked_prefill_size=None)


def modes(run: World) -> list[str]:
    return [mode for _, mode, *_ in run.batches]


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_a_step_is_not_launched_for_a_request_known_to_finish(overlap: str) -> None:
    """Skip-finishing-decode: one prefill and two decode steps make three tokens, in both loops."""
    run = World(policy(overlap), 50, [Client("a", (5, 6), (), 3)]).run()
    assert modes(run) == ["extend", "decode", "decode"]


@pytest.mark.parametrize(("overlap", "steps"), [("serial", 2), ("overlapped", 3)])
def test_an_eos_cannot_be_foreseen_and_costs_a_step_under_overlap(overlap: str, steps: int) -> None:
    run = World(policy(overlap), 50, [Client("a", (5, 6), (7, EOS), 30)]).run()
    assert len(run.batches) == steps
    assert run.outcomes["a"].accepted == 2


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_the_ratio_starts_over_when_idle(overlap: str) -> None:
    run = World(policy(overlap), 50, [Client("a", (5,), (), 9), Client("b", (5,), (), 9, 40)])
    seen = {}
    for _ in run.rounds():
        seen[run.step] = run.s.ratio.value
    assert seen[5] < run.s.ratio.initial
    assert seen[39] == run.s.ratio.initial, "asleep until step 40"
    assert run.sleeps == 2
