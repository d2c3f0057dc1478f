"""What one decision costs: the radix cache's operations and a scheduling step, and how each grows.

    python -m benchmarks.scheduling [--quick]

The radix cache holds sequences of 80 to 1,024 tokens, each beginning like one of 64 families that share
512 tokens; they are entered one by one, looked up, locked and unlocked, and evicted. Tokens are written
down (int32 ids, as a client sends them) or known beforehand (as a trace names them). Each sequence that
ends among the shared tokens cuts them there, so paths grow by a node, and all but evicting with them.

A scheduling step is what the loop does between two batches: `receive`, `next_batch` and `commit`. So many
requests run, each end makes room for one that waits, and one more comes in, so that the queue keeps its
length. Most steps only decode; in those at the far end somebody is admitted from a queue in order.

Times are CPU-microseconds of the thread. For comparison, on a machine like the one these were written on:
SGLang's own radix cache takes 20 (Rust) to 106 us for a match and 90 to 1,270 for an insert, its
scheduling step 34 to 157 us at the median and 4,500 to 19,000 at p99; vLLM's schedule and update
481 us at 64 running and 1,905 at 256.
"""

from __future__ import annotations

import argparse
import gc
from itertools import count
from time import thread_time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from policies.batch import Inbox, StepResult
from policies.cache.prefix import first_tokens
from policies.cache.radix import RadixCache
from policies.config import PolicyConfig
from policies.kv.pool import CountingPool
from policies.registry import EVICTIONS
from policies.request import Request
from policies.scheduler import Scheduler
from policies.tokens import KnownTokens, TokenLog
from traces.tokens import BlockTokens, SyntheticTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from policies.tokens import TokenSource

FAMILIES, SHARED = 64, 512
SHORTEST, LONGEST = 80, 1_024
SHORTEST_ANSWER, LONGEST_ANSWER = 200, 600
WARM_UP = 300  # steps, until ends are spread out


class Times:
    """Durations of one operation."""

    def __init__(self) -> None:
        self.taken_ns: list[int] = []

    def take(self, operation: Callable[..., Any], *arguments: object) -> Any:
        """Time one call; returns what it returns."""
        started = thread_time_ns()
        result = operation(*arguments)
        self.taken_ns.append(thread_time_ns() - started)
        return result

    def line(self) -> str:
        """Median and p99 in microseconds."""
        median, high = np.percentile(self.taken_ns, [50, 99]) / 1e3
        return f"{median:9,.1f} {high:10,.1f}"


class _Sequences:
    """Sequences without end, each different, of families that share their beginning."""

    def __init__(self, seed: int, *, known: bool) -> None:
        self._known = known
        self._rng = np.random.default_rng(seed)
        self._names = count(FAMILIES)

    def __next__(self) -> TokenSource:
        length = int(self._rng.integers(SHORTEST, LONGEST + 1))
        names = [int(self._rng.integers(FAMILIES)), next(self._names)]
        blocks = -(-length // SHARED)
        prompt = BlockTokens(np.array(names[:blocks]), SHARED, length)
        if self._known:
            return KnownTokens(prompt, SyntheticTokens(next(self._names), 1_000))
        return TokenLog(prompt.array())


def radix_times(sequences: int, page: int, *, known: bool) -> dict[str, Times]:
    """Enter so many sequences, look each up, lock and unlock it, then evict everything."""
    cache = RadixCache(page, EVICTIONS.create("lru"), CountingPool(0, page, 0).free_pages)
    source = _Sequences(0, known=known)
    prompts = []
    for _ in range(sequences):
        tokens = next(source)
        prompts.append(first_tokens(tokens, tokens.prompt_len))
    order = np.random.default_rng(1).permutation(sequences).tolist()
    times = {name: Times() for name in ("insert", "match", "lock+unlock", "evict 512")}
    pages = np.zeros(LONGEST // page, dtype=np.int32)
    for prompt in prompts:
        times["insert"].take(cache.insert, prompt, pages[: len(prompt) // page])

    def hold(node: Any) -> None:
        cache.lock(node)
        cache.unlock(node)

    for i in order:
        match = times["match"].take(cache.match, prompts[i])
        assert match.length == len(prompts[i]) // page * page
        times["lock+unlock"].take(hold, match.node)
    while cache.evictable:
        times["evict 512"].take(cache.evict, 512)
    return times


class Case(NamedTuple):
    """A policy to time steps under, and for how many of them."""

    name: str
    policy: dict[str, Any]
    steps: int = 600


PREFILL_FIRST = {"chunked_prefill_size": 8_192, "page_size": 1, "overlap": "serial"}
DECODE_FIRST = {
    "batching": "decode-first",
    "batching_options": {"max_num_batched_tokens": 8_192},
    "cache": "blocks",
    "chunked_prefill_size": None,
    "page_size": 16,
    "overlap": "serial",
}
CASES = [
    Case("prefill-first, fcfs", PREFILL_FIRST),
    Case("prefill-first, lpm", {**PREFILL_FIRST, "order": "lpm"}),
    Case(
        "prefill-first, lpm, whole queue",
        {**PREFILL_FIRST, "order": "lpm", "order_options": {"fallback_queue": 10**6}},
        150,
    ),
    Case("prefill-first, dfs-weight", {**PREFILL_FIRST, "order": "dfs-weight"}, 150),
    Case("decode-first, fcfs", DECODE_FIRST),
    Case("decode-first, lpm", {**DECODE_FIRST, "order": "lpm"}),
]


def _arrivals(seed: int) -> Iterator[Request]:
    rng, source = np.random.default_rng(seed), _Sequences(seed, known=True)
    for i in count():
        answer = int(rng.integers(SHORTEST_ANSWER, LONGEST_ANSWER + 1))
        yield Request(f"r{i}", next(source), answer)


class SteadyQueue:
    """A scheduler with so many requests running and, after each step and `refill`, waiting."""

    def __init__(self, policy: dict[str, Any], running: int, waiting: int) -> None:
        config = PolicyConfig.model_validate({**policy, "max_running_requests": running})
        self.scheduler = Scheduler(config, 2 * running * (LONGEST + LONGEST_ANSWER))
        self._arrivals = _arrivals(0)
        self._coming: list[Request] = []
        self._ended = running + waiting
        self.refill()

    def refill(self) -> None:
        """Let one request come in for each that has ended."""
        self._coming = [next(self._arrivals) for _ in range(self._ended)]

    def step(self) -> None:
        """Everything that the loop asks of the scheduler from one batch to the next."""
        scheduler = self.scheduler
        ended = len(scheduler.receive(Inbox(scheduler.iteration, self._coming)).ended)
        batch = scheduler.next_batch()
        if batch is not None:
            ended += len(scheduler.commit(batch, StepResult()).ended)
        self._ended = ended


def step_times(policy: dict[str, Any], running: int, waiting: int, steps: int) -> Times:
    """Steps with so many requests running and waiting."""
    times = Times()
    queue = SteadyQueue(policy, running, waiting)
    for number in range(WARM_UP + steps):
        if number < WARM_UP:
            queue.step()
        else:
            times.take(queue.step)
        queue.refill()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    share = 10 if parser.parse_args().quick else 1
    gc.freeze()
    print("Radix cache, CPU-us\n")
    operations = ("insert", "match", "lock+unlock", "evict 512")
    print(f"{'':32}" + "".join(f"{name:>21}" for name in operations))
    print(f"{'sequences, tokens':32}" + f" {'median':>9} {'p99':>10}" * len(operations))
    for known in (False, True):
        for page in (1, 16):
            for sequences in (150, 1_500, 15_000):
                times = radix_times(sequences // share, page, known=known)
                what = f"{'known' if known else 'written'}, page {page}"
                line = "".join(f" {times[name].line()}" for name in operations)
                print(f"{sequences // share:>8,} {what:23}{line}", flush=True)
    print("\nScheduling step, CPU-us\n")
    queues = (0, 100, 5_000 // share)
    print(f"{'':36}" + "".join(f"{f'{waiting:,} waiting':>21}" for waiting in queues))
    print(f"{'':36}" + f" {'median':>9} {'p99':>10}" * len(queues))
    for name, policy, steps in CASES:
        for running in (64, 256):
            lines = [
                step_times(policy, running, waiting, steps // share).line() for waiting in queues
            ]
            print(f"{f'{name}, {running}':36}" + "".join(f" {line}" for line in lines), flush=True)


if __name__ == "__main__":
    main()
