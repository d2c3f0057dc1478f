"""Catching up with rounds gone through at once: whoever ends in them is told of, whatever world asks."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from policies import LOOPS, PolicyConfig, Request, Scheduler, StepResult
from policies.batch import Batch, Inbox
from policies.batching.prefill_first import PrefillFirst
from policies.effects import Collect, Launch, Receive, Repeat, Repeated, Report
from policies.foresight import vouches

LENGTHS = {"a": 6, "b": 6, "c": 30, "d": 40}


class Prompt:
    """Tokens that nobody looks at twice."""

    prompt_len = 5

    def read(self, stop: int) -> Any:
        return np.arange(stop, dtype=np.int32)


def ends(overlap: str, stop_in: int | None) -> dict[str, str]:
    """How requests end in a world that goes as far as it is offered.

    Args:
        overlap: the loop.
        stop_in: the decode round whose commit stops `c` by itself: the same that ends `a` and `b`.
    """
    policy = PolicyConfig(
        overlap=overlap, cache="none", chunked_prefill_size=None, max_running_requests=9
    )
    s = Scheduler(policy, 1000)
    arrivals = [Request(name, Prompt(), tokens) for name, tokens in LENGTHS.items()]
    told: dict[str, str] = {}
    clock = count()
    loop = LOOPS[overlap](s)
    answer: Any = None
    stopped = False
    for _ in range(500):
        effect = loop.send(answer)
        answer = None
        match effect:
            case Receive():
                answer, arrivals = Inbox(next(clock), arrivals), []
            case Launch(batch):
                answer = batch
            case Collect(batch):
                assert isinstance(batch, Batch)
                answer = StepResult()
            case Report(events):
                ended = [*events.ended, *(r for part in events.repeated for r in part.ended)]
                told |= {r.id: str(r.finish_reason) for r in ended}
                if len(told) == len(LENGTHS):
                    return told
            case Repeat(batch, at_most, in_all):
                rounds, stops = at_most, ()
                if in_all > at_most and not stopped and stop_in is not None:
                    rounds, stopped = at_most + 1, True  # the round in which a and b leave
                    stops = (2,)
                answer = Repeated(rounds, batch.later(rounds), stops)
    raise AssertionError(told)


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_a_stop_and_departures_in_one_commit_are_all_told(overlap: str) -> None:
    assert ends(overlap, None) == dict.fromkeys(LENGTHS, "length")
    assert ends(overlap, 5) == {"a": "length", "b": "length", "c": "stop", "d": "length"}


def go_too_far() -> None:
    policy = PolicyConfig(chunked_prefill_size=None, max_running_requests=9, overlap="serial")
    loop = LOOPS["serial"](Scheduler(policy, 1000))
    answer: Any = None
    arrivals = [Request("a", Prompt(), 9)]
    for now in range(99):
        effect = loop.send(answer)
        answer = None
        match effect:
            case Receive():
                answer, arrivals = Inbox(now, arrivals), []
            case Launch(batch):
                answer = batch
            case Collect():
                answer = StepResult()
            case Repeat(in_all=in_all):
                answer = Repeated(in_all)


def test_more_rounds_than_there_are_is_an_error_that_says_so() -> None:
    with pytest.raises(RuntimeError, match="more rounds at once than batching 'prefill-first' has"):
        go_too_far()


class Pausing(PrefillFirst):
    """Plans otherwise than the class it derives from, and promises nothing of its own."""

    def next_batch(self, s: Scheduler) -> Batch | None:
        return super().next_batch(s)


class Vouching(Pausing):
    """Makes the promise anew."""

    foresees_departures = True
    repeatable = PrefillFirst.repeatable


def test_a_promise_counts_for_the_planning_of_the_class_that_makes_it() -> None:
    for promise in ("repeatable", "foresees_departures"):
        assert vouches(PrefillFirst(), promise)
        assert not vouches(Pausing(), promise)
        assert vouches(Vouching(), promise)
