"""A scheduler with an empty KV pool, and what looks its pages up: made together, for either family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.batching.decode_first import DecodeFirst
from policies.kv.pool import IndexedPool
from policies.registry import BATCHINGS
from policies.scheduler import Scheduler
from runtime.inputs import InputBuilder
from runtime.pages import BlockPages, PoolPages

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from policies.config import PolicyConfig
    from runtime.answers import Answers
    from runtime.pages import Pages


class Planner:
    """Makes schedulers, each over an empty pool. See the module.

    Args:
        policy: every `auto` resolved.
        capacity: tokens the KV pool holds, the padding page apart.
        max_len: tokens that one request may hold, at most the capacity.
        allocate: host memory for inputs; see `InputBuilder`.
        padded: what decode batches are filled up to; see `InputBuilder`.
        answers: what takes the place of samples; see `InputBuilder`.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        capacity: int,
        max_len: int,
        allocate: Callable[[int], torch.Tensor],
        padded: Callable[[int], int] | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._policy = policy
        self._capacity = capacity
        self._max_len = max_len
        self._allocate = allocate
        self._padded = padded
        self._answers = answers

    def __call__(self) -> tuple[Scheduler, InputBuilder]:
        """A scheduler, and what builds inputs from its batches."""
        policy, size = self._policy, self._policy.page_size
        rows = policy.max_running_requests
        assert isinstance(rows, int)
        pages: Pages
        if issubclass(BATCHINGS.get(policy.batching), DecodeFirst):
            scheduler = Scheduler(policy, self._capacity)  # it numbers its own blocks
            pages = BlockPages(rows, size, self._max_len)
        else:
            pool = IndexedPool(self._capacity, size, rows, self._max_len)
            scheduler = Scheduler(policy, self._capacity, pool)
            pages = PoolPages(pool)
        return scheduler, InputBuilder(pages, size, self._allocate, self._padded, self._answers)
