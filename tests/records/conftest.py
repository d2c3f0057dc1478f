"""Small runs for the record tests: rows in schema order from a few keywords."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traces.records import Run, RunWriter
from traces.records.schema import TABLES

REQUEST: dict[str, Any] = {
    "id": "r0",
    "session": None,
    "tenant": None,
    "priority": None,
    "arrival_ns": 0,
    "first_scheduled_ns": 10,
    "first_token_ns": 20,
    "finish_ns": 50,
    "prompt_tokens": 100,
    "cached_tokens": 40,
    "output_tokens": 4,
    "max_new_tokens": 4,
    "requested_max_new_tokens": 4,
    "retractions": 0,
    "finish_reason": "length",
    "reason": None,
}
STEP: dict[str, Any] = dict.fromkeys(TABLES["steps"].names, 0) | {
    "mode": "decode",
    "new_token_ratio": 0.7,
}


def request_row(**given: Any) -> tuple[Any, ...]:
    return tuple((REQUEST | given).values())


def step_row(**given: Any) -> tuple[Any, ...]:
    return tuple((STEP | given).values())


@pytest.fixture
def request_of() -> Callable[..., tuple[Any, ...]]:
    return request_row


@pytest.fixture
def step_of() -> Callable[..., tuple[Any, ...]]:
    return step_row


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """A plausible run: n requests, each served for a while; `slower_ms` is added to each TTFT."""

    def make(
        out: Path | None = None,
        n: int = 400,
        slower_ms: float = 0.0,
        seed: int = 0,
        records: tuple[str, ...] = ("requests", "steps"),
    ) -> Run:
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(5e7, n)).astype(np.int64)
        prompts = rng.integers(10, 3000, n)
        outputs = rng.integers(1, 60, n)
        noise = np.random.default_rng(seed + 1000).exponential(2e7, n)
        writer = RunWriter(out, {"kv_capacity_tokens": 100_000, "seed": seed}, records)
        ttft = (noise + slower_ms * 1e6 + prompts * 2e4).astype(np.int64)
        for i in range(n):
            first = int(arrivals[i] + ttft[i])
            times = [first + 9_000_000 * k for k in range(int(outputs[i]))]
            row = request_row(
                id=f"r{i}",
                arrival_ns=int(arrivals[i]),
                first_scheduled_ns=first - 1_000_000,
                first_token_ns=first,
                finish_ns=times[-1],
                prompt_tokens=int(prompts[i]),
                cached_tokens=int(prompts[i] // 3),
                output_tokens=int(outputs[i]),
                max_new_tokens=100,
                requested_max_new_tokens=100,
            )
            writer.request((*row, times) if "tokens" in writer.records else row)
        for i in range(5 * n):
            launch = i * 10_000_000
            writer.steps.append(
                step_row(
                    iteration=i,
                    mode="extend" if i % 5 == 0 else "decode",
                    launch_ns=launch,
                    start_ns=launch + 1,
                    end_ns=launch + 9_000_000,
                    commit_ns=launch + 9_500_000,
                    prefill_tokens=700 if i % 5 == 0 else 0,
                    decode_requests=0 if i % 5 == 0 else 1 + i % 30,
                    waiting=i % 7,
                    running=1 + i % 30,
                    free_tokens=60_000 - i % 1000,
                    evictable_tokens=20_000,
                )
            )
        return writer.close()

    return make
