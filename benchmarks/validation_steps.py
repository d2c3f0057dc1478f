"""Which steps a profile gets wrong: a real vLLM run's steps, told from what it kept of its requests.

    python -m benchmarks.validation_steps [--data DIR]

The run of the RTX PRO 6000 (`benchmarks.validation_llmservingsim`) kept no steps, but when each request
was first scheduled, and had its first and last token, to the microsecond. All tokens of a step have one
time, its end. Under overlapped scheduling vLLM schedules the step after next as soon as a step has ended,
so "scheduled" is an end too, and the prompt runs two steps later. What a step held then follows from the
token budget, and how many steps lie between two such instants from the requests' numbers of tokens, or
else from the nearest count by a guess. Wrong counts would put tokens with one end at several steps, or
one step's at several ends; with every first and last token in place, the steps are those of the run. That
needs a run whose KV never fills: nothing says when a request was preempted.

Prints step times, real and by the profile, by kind of step.
"""

from __future__ import annotations

import argparse
import gzip
import json
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from benchmarks.validation_llmservingsim import DATA, MODEL
from policies.model_shape import ModelShape
from simulator.latency.base import StepShape
from simulator.latency.operators import OperatorLatency
from simulator.operators import read_llmservingsim
from simulator.operators.llmservingsim import CAPTURED
from simulator.validation.validate import Question, compared
from traces.real_runs import read_real_run

GPU, LIKE = "RTXPRO6000", "RTX4090"
BUDGET = 2048
# an instant is that of a step's end where it lies so little behind it
BEHIND_S = 600e-6
SCHEDULING_S = 120e-6
# a guess to count steps by: decode steps are so much longer than the profile's, by rows, and steps with
# prefill by a fixed time
LONGER = ((32, 1.03), (64, 1.13), (80, 1.03), (1024, 1.0))
LONGER_WITH_PREFILL_S = 4.5e-3
# past twice a stretch and this, no guess is so wrong
TOO_LONG_S = 0.03
ROWS = (4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 127, 128)


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


class Stretch(NamedTuple):
    """Steps between two known ends."""

    seconds: float
    steps: list[StepShape]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=DATA)
    data = parser.parse_args().data
    profile = data / "profiler" / "perf" / GPU / "meta-llama" / MODEL / "bf16"
    latency = OperatorLatency(read_llmservingsim(profile, ModelShape.load(f"meta-llama/{MODEL}")))
    stretches, misplaced = told(_served(data, profile), latency)
    steps = sum(len(s.steps) for s in stretches)
    print(f"{steps} steps; {misplaced} first or last tokens at other steps than theirs")
    _decode(stretches, latency)
    _prefill(stretches, latency)


def told(requests: list[Served], latency: OperatorLatency) -> tuple[list[Stretch], int]:
    """The run's steps, and how many first and last tokens do not fall where they did."""
    ends, admitted = _ends(requests)
    firsts, lasts = {r.first for r in requests}, {r.last for r in requests}
    running: list[int] = []
    steps = [_step(requests, running, admitted[ends[0]]), _step(requests, running, [])]
    done, misplaced = 0, 0
    stretches: list[Stretch] = []
    for begin, end in pairwise(ends):
        if done:
            steps.append(_step(requests, running, admitted.get(begin, [])))
        # what would come if nothing were admitted, on copies
        copies, left, ahead = [replace(r) for r in requests], list(running), steps[done:]
        guess: list[float] = []
        while True:
            if len(guess) == len(ahead):
                ahead.append(_step(copies, left, []))
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
            steps.append(_step(requests, running, []))
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


def _step(requests: list[Served], running: list[int], admitted: list[int]) -> Step:
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


def _guess(shape: StepShape, latency: OperatorLatency) -> float:
    seconds = latency.step_ns(shape) / 1e9
    if shape.prefill:
        return seconds + LONGER_WITH_PREFILL_S
    return seconds * next(by for most, by in LONGER if shape.decode_requests <= most)


def _served(data: Path, profile: Path) -> list[Served]:
    folder = data / "bench" / "examples"
    run, like = read_real_run(folder / GPU / MODEL), read_real_run(folder / LIKE / MODEL)
    with TemporaryDirectory() as keep:
        asked = Question(profile=str(profile), like=like, arrivals_as_measured=True)
        simulated = compared(run, asked, Path(keep) / "profile.json").simulated.run.run
    assert simulated is not None
    table = simulated.requests
    # KV never fills, so what a prompt finds cached depends on the order of prompts alone
    cached = dict(zip(table["id"], table["cached_tokens"], strict=True))
    path = folder / GPU / MODEL / "vllm" / "requests.jsonl"
    zipped = path.with_name(f"{path.name}.gz")
    text = gzip.decompress(zipped.read_bytes()) if zipped.is_file() else path.read_bytes()
    return [
        Served(
            row["input_toks"],
            row["output_toks"],
            row["scheduled_ts"],
            row["first_token_ts"],
            row["last_token_ts"],
            computed=int(cached[request.id]),
        )
        for row, request in zip(map(json.loads, text.splitlines()), run.requests, strict=True)
    ]


def _decode(stretches: list[Stretch], latency: OperatorLatency) -> None:
    print(f"\n{'decode rows':16}{'steps':>7}{'real ms':>9}{'profile':>9}{'error':>8}")
    for low, high in zip((0, *ROWS), ROWS, strict=False):
        held = [
            s
            for s in stretches
            if not any(x.prefill for x in s.steps) and low < s.steps[0].decode_requests <= high
        ]
        steps = sum(len(s.steps) for s in held)
        if steps:
            real = 1e3 * sum(s.seconds for s in held) / steps
            made = sum(latency.step_ns(x) for s in held for x in s.steps) / 1e6 / steps
            print(
                f"{low + 1:>7} to {high:<5}{steps:7}{real:9.2f}{made:9.2f}{made / real - 1:+8.1%}"
            )


def _prefill(stretches: list[Stretch], latency: OperatorLatency) -> None:
    """Stretches of one step with prefill and at most one before it, taken as long as its like."""
    alone = {
        s.steps[0].decode_requests: s.seconds / len(s.steps)
        for s in stretches
        if not any(x.prefill for x in s.steps)
    }
    found: list[tuple[int, int, float, float]] = []
    for stretch in stretches[1:]:  # the first step of all was a cold one
        *before, last = stretch.steps
        if not last.prefill or len(before) > 1 or any(x.prefill for x in before):
            continue
        real = stretch.seconds
        for x in before:
            real -= alone[min(alone, key=lambda n: abs(n - x.decode_requests))]
        tokens = last.decode_requests + sum(new for new, _ in last.prefill)
        found.append((tokens, last.decode_requests, 1e3 * real, latency.step_ns(last) / 1e6))
    print(f"\n{'tokens':16}{'steps':>7}{'real ms':>9}{'profile':>9}  real less profile, ms: up to")
    print(f"{'':43}66 decode rows, and more than 110")
    captured = CAPTURED[-1]
    for most in range(captured + 128, BUDGET + 1, 128):
        held = [f for f in found if most - 128 < f[0] <= most]
        if held:
            few = [f[2] - f[3] for f in held if f[1] <= 66]
            many = [f[2] - f[3] for f in held if f[1] > 110]
            ends = "".join(f"{np.mean(d):+9.1f}" if d else f"{'':9}" for d in (few, many))
            mean = np.mean([f[2:] for f in held], axis=0)
            print(f"{most - 127:>7} to {most:<5}{len(held):7}{mean[0]:9.1f}{mean[1]:9.1f}{ends}")


if __name__ == "__main__":
    main()
