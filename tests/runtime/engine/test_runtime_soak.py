"""A few seconds of everything at once: random arrivals, aborts and requests that cannot be served."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from runtime import Engine, InvalidRequestError, SamplingParams, load_model
from tests.runtime.engine.test_runtime_greedy import FAMILIES

if TYPE_CHECKING:
    from tests.runtime.conftest import TinyModel

SECONDS = 1.5


def a_prompt(rng: random.Random) -> list[int]:
    """Of any length, now and then none, too long, or with an id that there is not."""
    length = rng.choice([0, 1, 3, 10, 40, 40, 200])
    return [rng.randrange(321 if rng.random() < 0.1 else 320) for _ in range(length)]


def some_params(rng: random.Random) -> SamplingParams:
    most = rng.choice([0, 1, 5, 60])
    return SamplingParams(
        max_new_tokens=most,
        temperature=rng.choice([0.0, 1.0]),
        ignore_eos=rng.random() < 0.5,
        presence_penalty=rng.choice([0.0, 0.5]),
        logit_bias=rng.choice([{}, {5: 3.0, 6: 1.0}]),
        min_new_tokens=min(most, rng.choice([0, 0, 3])),
        logprobs=rng.choice([None, 2]),
    )


@pytest.mark.parametrize("overlap", ["overlapped", "serial"])
@pytest.mark.parametrize("family", ["mixed", "decode-first"])
def test_nothing_is_left_behind(tiny_model: TinyModel, family: str, overlap: str) -> None:
    loaded = load_model(tiny_model("llama"), dtype="float32")
    policy = {**FAMILIES[family], "page_size": 4, "max_running_requests": 8, "overlap": overlap}
    rested = 0

    def at_rest(scheduler: Any) -> None:
        nonlocal rested
        rested += 1
        scheduler.check_integrity()
        memory = scheduler.memory
        assert memory.free + memory.evictable == memory.capacity, (
            "a slot is neither free nor cached"
        )

    rng = random.Random(3)
    answers: list[Any] = []
    with Engine(
        loaded=loaded, on_idle=at_rest, policy=policy, kv={"capacity_tokens": 160}
    ) as engine:
        sampler = engine.stack.forward.sampler
        empty = sampler.nbytes
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            try:
                answers.append(engine.submit(a_prompt(rng), some_params(rng)))
            except InvalidRequestError:
                continue
            if rng.random() < 0.3:
                engine.abort(rng.choice(answers).job.request.id)
            if rng.random() < 0.05:
                answers[-1].result(60)
            time.sleep(rng.random() * 0.01)
        outputs = [answer.result(60) for answer in answers]
    assert rested > 0
    assert sampler.nbytes == empty, "penalties, biases or bans of requests that have left are kept"
    assert {str(output.finish_reason) for output in outputs} >= {"length", "abort", "refused"}
    for output in outputs:
        assert (output.finish_reason == "refused") == (output.error is not None)
    assert not [t for t in threading.enumerate() if t.name.startswith("runtime-")]
