"""The small world of tests for decode-first, which numbers its own blocks and launches empty batches.

All that `World` holds a scheduler to holds here too; the audit reads the blocks that each request holds.
`block_cases` are random policies of that family with workloads that crowd a small pool.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from policies import Batch, CountingPool, PolicyConfig, Request, Scheduler
from policies.batch import Mode
from policies.kv.block_memory import BlockMemory
from tests.policies.workloads import OPTIONS, Case, clients
from tests.policies.world import KVAudit, World

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.policies.world import Client

ORDERS = ("fcfs", "lpm", "lof", "hrrn", "shortest-prefill-first", "random", "routing-key")


class _Table:
    """What `KVAudit` reads of a pool: which blocks each row holds."""

    def __init__(self, capacity: int, block_size: int, rows: int) -> None:
        self.capacity = capacity
        self.page_size = block_size
        self.table = np.zeros((rows + 1, capacity // block_size), dtype=np.int32)

    def note(self, requests: list[Request]) -> None:
        for request in requests:
            self.table[request.row] = 0
            self.table[request.row, : len(request.blocks)] = request.blocks


class _BlockAudit(KVAudit):
    def __init__(self, table: _Table) -> None:
        super().__init__(table)  # type: ignore[arg-type]
        self._table = table

    def run(self, batch: Batch, clients: Mapping[str, Client]) -> None:
        requests = [item.request for item in batch.prefill]
        if batch.decode is not None:
            requests += batch.decode.requests
        self._table.note(requests)
        super().run(batch, clients)


class BlockWorld(World):
    """See the module."""

    def __post_init__(self) -> None:
        rows = self.policy.max_running_requests
        assert isinstance(rows, int)
        self.s = Scheduler(self.policy, self.capacity)
        assert isinstance(self.s.memory, BlockMemory)
        self.blocks = self.s.memory
        self.pool = CountingPool(self.capacity, self.policy.page_size, rows)  # nobody's
        self.audit = _BlockAudit(_Table(self.blocks.capacity, self.blocks.page_size, rows))
        self.by_id = {client.id: client for client in self.clients}
        self._arrivals = defaultdict(list)
        for client in self.clients:
            self._arrivals[client.arrival].append(client)
        self._aborts = {step: tuple(ids) for step, ids in self.aborts.items()}
        self._left = {client.id for client in self.clients}

    def _launch(self, batch: Batch) -> tuple[Batch, list[tuple[Request, int]]]:
        if batch.mode is not Mode.EMPTY:
            return super()._launch(batch)
        assert batch.items == 0
        self.batches.append((self.step, "empty"))
        return batch, []

    def _check_end(self) -> None:
        super()._check_end()
        assert not self.s.batching.active  # type: ignore[attr-defined]
        assert self.blocks.pool.free == self.blocks.pool.blocks
        self.blocks.check([])


@st.composite
def block_policies(draw: st.DrawFn, /, **fixed: Any) -> PolicyConfig:
    """A policy with batching decode-first; what `fixed` names is not drawn."""
    cache = fixed.get("cache") or draw(st.sampled_from(("blocks", "blocks", "blocks", "none")))
    orders = [o for o in ORDERS if cache == "blocks" or o != "shortest-prefill-first"]
    order = fixed.get("order") or draw(st.sampled_from(("fcfs", "fcfs", *orders)))
    seqs = draw(st.sampled_from((1, 2, 4, 6, 8)))
    chunked = draw(st.sampled_from((True, True, True, False)))
    options = {
        # without chunks a step must take the longest prompt
        "max_num_batched_tokens": seqs + draw(st.sampled_from((0, 1, 3, 8, 24, 200)))
        if chunked
        else 1000,
        "max_num_active_seqs": draw(st.sampled_from((None, None, 1, 3))),
        "long_prefill_token_threshold": draw(st.sampled_from((0, 0, 1, 5, 16))),
        "long_prefill_token_threshold_adaptive": draw(st.booleans()),
        "enable_chunked_prefill": chunked,
        "scheduler_reserve_full_isl": draw(st.booleans()),
        "watermark": draw(st.sampled_from((0.0, 0.0, 0.1, 0.3))),
    }
    drawn: dict[str, Any] = {
        "order": order,
        "order_options": OPTIONS.get(order, {}),
        "batching": "decode-first",
        "batching_options": options,
        "overlap": draw(st.sampled_from(("serial", "overlapped"))),
        "chunked_prefill_size": None,
        "page_size": draw(st.sampled_from((1, 4, 16))),
        "cache": cache,
        "max_running_requests": seqs,
        "max_queued_requests": draw(st.sampled_from((None, None, 3))),
        "accidents": draw(st.sampled_from(("reference", "none"))),
        "priority": {
            "enabled": draw(st.booleans()),
            "low_values_first": draw(st.booleans()),
        },
    }
    return PolicyConfig(**{**drawn, **fixed})


@st.composite
def block_cases(draw: st.DrawFn, /, *, aborts: bool = True, **fixed: Any) -> Case:
    """A policy of that family with a workload for it, on a pool of 2 to 8 blocks and a little."""
    policy = draw(block_policies(**fixed))
    size = policy.page_size
    capacity = draw(st.integers(2 * size + 2, 8 * size + 60))
    longest = draw(st.sampled_from((max(2, capacity // 8), capacity // 2, capacity + 1)))
    outputs = draw(st.sampled_from(((1, longest), (max(1, capacity // 3), capacity))))
    arriving, at = [], 0
    for index, gap in enumerate(
        draw(st.lists(st.sampled_from((0, 0, 1, 3, 40)), min_size=1, max_size=9))
    ):
        at += gap
        arriving.append(draw(clients(index, longest, outputs, at)))
    given_up: dict[int, tuple[str, ...]] = {}
    if aborts:
        for _ in range(draw(st.integers(0, 4))):
            victim = draw(st.sampled_from(arriving))
            step = victim.arrival + draw(st.integers(0, 12))
            given_up[step] = (*given_up.get(step, ()), victim.id)
    return Case(policy, capacity, tuple(arriving), given_up)
