"""The world, with a model whose answers are known: all that is asked is answered, and rightly.

The model reads every sequence through the paged KV, so a wrong page, slot, position, length or token
shows in what it answers.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from policies import ORDERS, PolicyConfig
from policies.request import FinishReason
from tests.runtime.engine.fakes import VOCAB, Asked, Bench, Notes

if TYPE_CHECKING:
    from runtime.jobs import Job

FAMILIES = {
    "prefill-first": {"chunked_prefill_size": 16, "cache": "radix"},
    "mixed": {"batching": "mixed", "chunked_prefill_size": 16, "cache": "radix"},
    "static": {"batching": "static", "chunked_prefill_size": 16, "cache": "radix"},
    "decode-first": {
        "batching": "decode-first",
        "chunked_prefill_size": None,
        "batching_options": {"max_num_batched_tokens": 16},
        "cache": "blocks",
    },
}
EAGER = {"init": 0.1, "min_factor": 0.1}  # admits more than can end without a retraction


def policy(family: str, **keys: Any) -> PolicyConfig:
    keys = {**FAMILIES[family], "max_running_requests": 6, **keys}
    if family != "decode-first":
        keys["new_token_ratio"] = EAGER
    return PolicyConfig(**keys)


class GivesUp(Notes):
    """A client that gives up after so many tokens."""

    def __init__(self, bench: Bench, after: int) -> None:
        super().__init__()
        self.bench = bench
        self.after = after

    def token(self, job: Job, token: int) -> None:
        super().token(job, token)
        if len(self.tokens) == self.after:
            self.bench.queue.abort(job.request.id)


def workload(bench: Bench, seed: int, count: int = 14) -> list[Asked]:
    """Requests that share prefixes, of all lengths; some give up."""
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, VOCAB, 40).tolist()
    jobs = []
    for i in range(count):
        prompt = (
            shared[: rng.integers(0, 40)] + rng.integers(0, VOCAB, rng.integers(1, 12)).tolist()
        )
        length = int(rng.integers(1, 40))
        ends = frozenset(rng.integers(0, VOCAB, 3).tolist()) if i % 3 == 0 else frozenset()
        job = bench.ask(f"r{i}", prompt, length, ends, priority=i % 2, tenant=str(i % 3))
        if i % 5 == 4:
            job.listener = GivesUp(bench, int(rng.integers(1, 10)))
        jobs.append(job)
    return jobs


def check(jobs: list[Asked]) -> None:
    for job in jobs:
        request, told = job.request, job.listener
        output = job.output().tolist()
        assert told.finished == 1, f"{request} was not ended"
        assert told.tokens == output
        if request.finish_reason is FinishReason.ABORT:
            assert isinstance(told, GivesUp) or request.refusal
            assert output == job.expected[: len(output)], f"{request} went astray"
        else:
            assert output == job.expected, f"{request} went astray"


MATRIX = list(product(FAMILIES, ("overlapped", "serial"), (1, 4, 16), (True, False)))


@pytest.mark.parametrize(("family", "overlap", "page", "cache"), MATRIX)
def test_every_answer_is_right(family: str, overlap: str, page: int, cache: bool) -> None:
    """In a pool so small that cached prefixes are evicted, with aborts; orders take turns."""
    keys: dict[str, Any] = {"overlap": overlap, "page_size": page}
    if not cache:
        keys["cache"] = "none"
    orders = [order for order in ORDERS.names() if usable(order, family, cache=cache)]
    at = MATRIX.index((family, overlap, page, cache))
    for turn in range(3):
        order = orders[(3 * at + turn) % len(orders)]
        bench = Bench(policy(family, order=order, **keys), 160)
        jobs = workload(bench, 3 * at + turn)
        bench.run()
        check(jobs)


def usable(order: str, family: str, *, cache: bool) -> bool:
    """Whether an order goes with a cache: one needs any, and one needs the radix tree."""
    if order == "shortest-prefill-first":
        return cache
    return not (order == "dfs-weight" and family == "decode-first")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("overlap", ["overlapped", "serial"])
def test_who_is_retracted_is_answered_all_the_same(family: str, overlap: str) -> None:
    """Short prompts and long outputs that no pool of this size holds at once."""
    bench = Bench(policy(family, overlap=overlap, page_size=4), 96)
    jobs = [bench.ask(f"r{i}", [i, i + 1, i + 2], 40) for i in range(8)]
    bench.run()
    check(jobs)
    assert bench.recorder.retractions > 0
    if overlap == "overlapped" and family != "decode-first":
        assert any(job.stop.restarts for job in jobs), "a token in flight was dropped"
    assert bench.world.scheduler.memory.evicted_tokens > 0


def test_an_abort_may_come_for_nobody() -> None:
    bench = Bench(policy("prefill-first"), 96)
    job = bench.ask("a", [1, 2, 3], 4)
    assert not bench.queue.abort("b")
    bench.run()
    assert job.output().tolist() == job.expected


def test_sampling_rows_start_with_all_that_is_known() -> None:
    """A request that was retracted is admitted again with the outputs it had."""
    bench = Bench(policy("prefill-first", page_size=4), 96)
    jobs = {f"r{i}": bench.ask(f"r{i}", [i, i + 1, i + 2], 40) for i in range(8)}
    bench.run()
    again = [(prompt, output) for _, prompt, output in bench.sampler.admitted if output]
    assert again
    for prompt, output in again:
        assert output == jobs[f"r{prompt[0]}"].expected[: len(output)]
