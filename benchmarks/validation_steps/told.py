"""The steps of a run whose KV never fills, told from the instants of its requests.

It is known when each request was first scheduled, and had its first and last token. All tokens of a step
have one time, its end. Under overlapped scheduling vLLM schedules the step after next as soon as a step has
ended, so "scheduled" is an end too, and the prompt runs two steps later. What a step held then follows from
the token budget, and how many steps lie between two such instants from the requests' numbers of tokens, or
else from the nearest count by a guess. Wrong counts would put tokens with one end at several steps, or
one step's at several ends; with every first and last token in place, the steps are those of the run. That
needs a run whose KV never fills: nothing says when a request was preempted.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.validation_steps.kept import kept
from benchmarks.validation_steps.tables import BUDGET, Stretch
from simulator.latency.base import StepShape
from simulator.validation.compare import Question, compare
from traces.real_runs import read_real_run

if TYPE_CHECKING:
    from simulator.latency.base import LatencyModel

# an instant is that of a step's end where it lies so little behind it
BEHIND_S = 600e-6
SCHEDULING_S = 120e-6
# a guess to count steps by: decode steps are so much longer than the profile's, by rows, and steps with
# prefill by a fixed time
LONGER = ((32, 1.03), (64, 1.13), (80, 1.03), (1024, 1.0))
LONGER_WITH_PREFILL_S = 4.5e-3
# past twice a stretch and this, no guess is so wrong
TOO_LONG_S = 0.03


@dataclass(slots=True)
class Served:
    """A request, its instants in seconds, and how far it has come."""

    prompt: int
    output: int
    scheduled: float
    first: float
    last: float
    computed: int
    generated: int = 0


class Step(NamedTuple):
    """What a step held, and whose first and last tokens it made."""

    shape: StepShape
    firsts: tuple[int, ...]
    lasts: tuple[int, ...]


def told(requests: list[Served], latency: LatencyModel) -> tuple[list[Stretch], int]:
    """The run's steps, and how many first and last tokens do not fall where they did."""
    ends, admitted = _ends(requests)
    firsts, lasts = {r.first for r in requests}, {r.last for r in requests}
    running: list[int] = []
    steps = [next_step(requests, running, admitted[ends[0]]), next_step(requests, running, [])]
    done, misplaced = 0, 0
    stretches: list[Stretch] = []
    for begin, end in pairwise(ends):
        if done:
            steps.append(next_step(requests, running, admitted.get(begin, [])))
        # what would come if nothing were admitted, on copies
        copies, left, ahead = [replace(r) for r in requests], list(running), steps[done:]
        guess: list[float] = []
        while True:
            if len(guess) == len(ahead):
                ahead.append(next_step(copies, left, []))
            step = ahead[len(guess)]
            guess.append((guess[-1] if guess else 0.0) + _guess(step.shape, latency))
            made = step.firsts if end in firsts else step.lasts if end in lasts else ()
            if made:
                count = len(guess)
                break
            if step.firsts or guess[-1] > 2 * (end - begin) + TOO_LONG_S:
                count = 1 + int(np.argmin(np.abs(np.array(guess) - (end - begin))))
                break
        while len(steps) < done + count + 1:
            steps.append(next_step(requests, running, []))
        here = steps[done : done + count]
        for i, step in enumerate(here, start=1):
            at = end if i == count else None
            misplaced += sum(requests[r].first != at for r in step.firsts)
            misplaced += sum(requests[r].last != at for r in step.lasts)
        stretches.append(Stretch(end - begin, [step.shape for step in here]))
        done += count
    return stretches, misplaced


def _ends(requests: list[Served]) -> tuple[list[float], dict[float, list[int]]]:
    """Ends of steps that are known, and who was scheduled at each."""
    tokens = sorted({r.first for r in requests} | {r.last for r in requests})
    admitted: dict[float, list[int]] = {}
    for i, request in enumerate(requests):
        before = bisect_right(tokens, request.scheduled) - 1
        known = before >= 0 and request.scheduled - tokens[before] < BEHIND_S
        end = tokens[before] if known else request.scheduled - SCHEDULING_S
        admitted.setdefault(end, []).append(i)
    return sorted({*tokens, *admitted}), admitted


def next_step(requests: list[Served], running: list[int], admitted: list[int]) -> Step:
    """The next step: a token for who decodes, the rest of the budget for prompts, in order."""
    running += admitted
    budget, prefill, lens = BUDGET, [], []
    firsts, lasts = [], []
    for i in running:
        r = requests[i]
        if r.computed < r.prompt:
            new = min(budget, r.prompt - r.computed)
            if new:
                prefill.append((new, r.computed))
            r.computed += new
            budget -= new
            if new and r.computed == r.prompt:
                firsts.append(i)
                r.generated = 1
        else:
            lens.append(r.prompt + r.generated)
            r.generated += 1
            budget -= 1
        if r.generated == r.output:
            lasts.append(i)
    running[:] = [i for i in running if requests[i].generated < requests[i].output]
    kv = np.array(lens, np.int64)
    sampled = len(lens) + len(firsts)
    shape = StepShape(tuple(prefill), len(lens), int(kv.sum()), sampled, lambda: kv)
    return Step(shape, tuple(firsts), tuple(lasts))


def _guess(shape: StepShape, latency: LatencyModel) -> float:
    seconds = latency.step_ns(shape) / 1e9
    if shape.prefill:
        return seconds + LONGER_WITH_PREFILL_S
    return seconds * next(by for most, by in LONGER if shape.decode_requests <= most)


def served(folder: Path, like: Path, profile: Path) -> list[Served]:
    """The requests of a run.

    Args:
        folder: the run's.
        like: a run whose settings stand in for those not known.
        profile: what says how long steps take; here it decides nothing.
    """
    run, other = read_real_run(folder), read_real_run(like)
    with TemporaryDirectory() as keep:
        asked = Question(profile=str(profile), like=other, arrivals_as_measured=True)
        simulated = compare(run, asked, Path(keep) / "profile.json").simulated.run.run
    assert simulated is not None
    table = simulated.requests
    # KV never fills, so what a prompt finds cached depends on the order of prompts alone
    cached = dict(zip(table["id"], table["cached_tokens"], strict=True))
    return [
        Served(*row, computed=int(cached[request.id]))
        for row, request in zip(kept(folder), run.requests, strict=True)
    ]
