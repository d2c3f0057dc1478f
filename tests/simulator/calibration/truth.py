"""Runs whose every step is known: the roofline's time, with noise that is the same for the same step."""

from __future__ import annotations

from contextlib import contextmanager
from math import exp
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from simulator import LatencyModel, RooflineLatency, StepShape, simulate
from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces import Run

MIX = 0x9E3779B97F4A7C15


def noise(seed: int, *numbers: int) -> float:
    """About normal with mean 0 and deviation 1, from integers."""
    total = 0.0
    state = seed * MIX + 1
    for number in numbers:
        state = ((state ^ number) * 0xBF58476D1CE4E5B9 + MIX) % (1 << 64)
        state ^= state >> 31
    for _ in range(4):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        total += (state >> 11) / (1 << 53)
    return (total - 2.0) * 3**0.5


@contextmanager
def noisy_device(
    spread: float, seed: int = 0, slow: frozenset[int] = frozenset()
) -> Iterator[None]:
    """The roofline's times are off by so much; steps that read KV in `slow` take a hundredfold."""
    exact = RooflineLatency.step_ns

    def step_ns(self: RooflineLatency, shape: StepShape) -> int:
        ns = exact(self, shape)
        drawn = noise(seed, shape.decode_requests, shape.decode_kv_tokens, *sum(shape.prefill, ()))
        ns = round(ns * exp(spread * drawn - spread * spread / 2))
        return 100 * ns if shape.decode_kv_tokens in slow else ns

    with (
        patch.object(RooflineLatency, "step_ns", step_ns),
        patch.object(RooflineLatency, "decode_steps_ns", LatencyModel.decode_steps_ns),
    ):
        yield


def work(seed: int, requests: int, rate: float, prompt: int = 600, output: int = 80) -> Workload:
    """Poisson arrivals, lengths drawn around a mean, groups that share the first half of a prompt."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, requests)) * 1e9
    found = []
    for i in range(requests):
        tokens = SyntheticTokens(seed * 10_000 + 2 * i, int(rng.integers(prompt // 4, 2 * prompt)))
        answer = SyntheticTokens(seed * 10_000 + 2 * i + 1, int(rng.integers(4, 2 * output)))
        found.append(TraceRequest(f"r{i:04}", int(times[i]), tokens, answer))
    return Workload(f"work-{seed}", found)


def recorded(workload: Workload, spread: float = 0.0, *, seed: int = 0, **sections: Any) -> Run:
    """A run of it with everything recorded."""
    with noisy_device(spread, seed):
        return simulate(workload, sections, records=("requests", "steps", "decisions"))
