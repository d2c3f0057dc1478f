"""A model small enough to know its answers: the next token is a hash of the whole sequence.

The sequence is not taken from the tokens a step brings, but read through the paged KV cache, where the
token ids and positions were written as keys: a wrong page, slot, position or length shows at once, or in
the next token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from policies import Request, TokenLog
from runtime.arrivals import LiveQueue
from runtime.clock import Clock
from runtime.executor import CpuExecutor
from runtime.forward import Forward
from runtime.jobs import Job
from runtime.kv_cache import KVCache
from runtime.planner import Planner
from runtime.recorder import Recorder
from runtime.sampling.params import SamplingParams
from runtime.sampling.sampler import Sampled
from runtime.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from policies import PolicyConfig
    from runtime.attention.base import Sequences

VOCAB = 97
_PRIME = 2_147_483_647


def next_token(ids: Sequence[int]) -> int:
    """What the model answers to a sequence."""
    state = 7
    for token in ids:
        state = (state * 1_000_003 + int(token) + 1) % _PRIME
    return state % VOCAB


def answer(prompt: Sequence[int], count: int, ends: frozenset[int] = frozenset()) -> list[int]:
    """The model's greedy answer: so many tokens, or up to the first that ends it."""
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        ids.append(next_token(ids))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


class FakeAttention:
    """Writes (token, position) as keys; gives each query the hash of its sequence up to itself."""

    name = "fake"

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache

    def plan(self, seqs: Sequences) -> None:
        self.seqs = seqs

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seqs, size = self.seqs, self.cache.page_size
        written = seqs.slots[seqs.slots >= size].tolist()
        assert len(set(written)) == len(written), "two tokens share a slot"
        self.cache.write(layer, seqs.slots, k, v)
        out = torch.empty_like(q)
        indptr = seqs.qo_indptr.tolist()
        for i, kv_len in enumerate(seqs.kv_lens.tolist()):
            if seqs.page_table[i, 0] == 0:  # padding
                assert (kv_len, indptr[i + 1] - indptr[i], int(q[indptr[i], 0, 0])) == (1, 1, 0)
                continue
            at = torch.arange(kv_len)
            slots = seqs.page_table[i].long()[at // size] * size + at % size
            keys = self.cache.k_slots[layer][slots][:, 0].double()
            assert keys[:, 1].tolist() == at.tolist(), "a token of another place was read"
            first = kv_len - (indptr[i + 1] - indptr[i])
            ids = keys[:, 0].long().tolist()
            for j, row in enumerate(range(indptr[i], indptr[i + 1])):
                out[row, 0, 0] = next_token(ids[: first + j + 1])
        return out


class FakeModel:
    """See the module. `fail_on` makes a step raise in which that token is computed."""

    def __init__(self, fail_on: int | None = None, error: type[Exception] = RuntimeError) -> None:
        self.fail_on = fail_on
        self.error = error
        self.steps = 0

    def __call__(self, tokens: torch.Tensor, positions: torch.Tensor, attend: Any) -> torch.Tensor:
        self.steps += 1
        if self.fail_on is not None and bool((tokens == self.fail_on).any()):
            raise self.error(f"kernel failed on token {self.fail_on}")
        k = torch.stack([tokens, positions], dim=1)[:, None].double()
        return attend(0, torch.zeros_like(k), k, k)[:, 0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(hidden[:, 0].long(), VOCAB).float()


class Greedy:
    """The most likely token; notes who was admitted with what, and which rows are held."""

    nbytes = 0

    def __init__(self) -> None:
        self.admitted: list[tuple[int, list[int], list[int]]] = []
        self.held: set[int] = set()

    def admit(self, row: int, params: Any, prompt: Any, output: Any, *, seed: int = 0) -> None:
        self.admitted.append((row, prompt.tolist(), output.tolist()))
        self.held.add(row)

    def release(self, row: int) -> None:
        self.held.remove(row)

    def sample(self, logits: torch.Tensor, rows: Any, positions: Any, **_: Any) -> Sampled:
        assert set(rows.tolist()) - {0} <= self.held, "a row was let go of before its last step"
        return Sampled(logits.argmax(-1))


class EndsWith:
    """Ends an output with any of these ids. It sees every token once, unless it is told to restart."""

    def __init__(self, ids: frozenset[int]) -> None:
        self.ids = ids
        self.seen: int | None = 0
        self.restarts = 0

    def ends(self, output: np.ndarray) -> bool:
        assert self.seen in {None, len(output) - 1}, "a token was seen twice, or not at all"
        self.seen = len(output)
        return int(output[-1]) in self.ids

    def restart(self) -> None:
        self.restarts += 1
        self.seen = None


class Notes:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.finished = 0

    def token(self, job: Job, token: int) -> None:
        assert not self.finished
        self.tokens.append(token)

    def ended(self, job: Job, now_ns: int) -> None:
        self.finished += 1


class Asked(Job):
    """A job that knows what its answer should be."""

    expected: list[int]


class Bench:
    """A whole runtime around the fake model."""

    def __init__(
        self,
        policy: PolicyConfig,
        capacity: int,
        *,
        model: FakeModel | None = None,
        writer: Any = None,
        padded: Callable[[int], int] | None = None,
    ) -> None:
        self.clock = Clock()
        self.queue = LiveQueue(self.clock)
        rows = policy.max_running_requests
        assert isinstance(rows, int)
        pages = capacity // policy.page_size + 1
        self.cache = KVCache(1, pages, policy.page_size, 1, 2, torch.float64)
        self.cache.k[0].fill_(float("nan"))
        self.model = model or FakeModel()
        self.sampler = Greedy()
        forward = Forward(
            self.model, FakeAttention(self.cache), self.sampler, rows, torch.device("cpu")
        )
        self.executor = CpuExecutor(forward, self.clock)
        self.recorder = Recorder(writer, rows)
        self.idled = 0
        planner = Planner(policy, capacity, capacity, self.executor.buffer, padded)
        self.world = World(
            planner, self.executor, self.queue, self.recorder, self.clock, self._idle
        )

    def _idle(self, scheduler: Any) -> None:
        self.idled += 1
        scheduler.check_integrity()
        memory = scheduler.memory
        assert memory.free + memory.evictable == memory.capacity
        self.queue.close("the test has no more")

    def ask(
        self,
        name: str,
        prompt: Sequence[int],
        count: int,
        ends: frozenset[int] = frozenset(),
        *,
        max_expected_token: int | None = None,
        **fields: Any,
    ) -> Asked:
        log = TokenLog(prompt)
        request = Request(name, log, count, **fields)
        params = SamplingParams(max_new_tokens=count, temperature=0.0)
        job = Asked(request, log, params, EndsWith(ends), Notes(), wants_tokens=True)
        job.expected = answer(prompt, count, ends)
        if max_expected_token is not None:
            assert max(job.expected) < max_expected_token, "choose another prompt"
        self.queue.submit(job)
        return job

    def run(self) -> None:
        """Until nothing is left to do."""
        try:
            self.world.run()
        finally:
            self.executor.close()
        assert self.sampler.held == set(), "rows are held for requests that have left"
        if self.model.fail_on is None:
            assert self.world.failures == 0, self.world.last_failure
