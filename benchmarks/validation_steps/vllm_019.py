"""What vLLM 0.19 does otherwise than the preset, which follows 0.32: freed blocks all go to the tail.

The preset puts those without contents, a request's last and partly filled one, to the head of the free
queue. What is found again after a preemption depends on it. That 0.19 did not do so was not read in its
source: the run of the RTX 4090 says so, which agrees with this rule and not with the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.batching.decode_first import DecodeFirst
from policies.kv.blocks import BlockPool
from policies.registry import BATCHINGS

if TYPE_CHECKING:
    from policies.config import PolicyConfig
    from policies.kv.block_memory import BlockMemory
    from policies.kv.blocks import Int64Array
    from policies.kv.pool import KVPool

NAME = "decode-first-0.19"


class TailPool(BlockPool):
    """A pool to whose free queue all blocks return at the tail, a request's last one first."""

    def release(self, blocks: Int64Array) -> None:
        """See `BlockPool.release`."""
        blocks = blocks[::-1]
        left = self._references[blocks] - 1
        self._references[blocks] = left
        freed = blocks[left == 0]
        self._free.append(freed)
        self.reusable += int(np.count_nonzero(self._contents[freed]))


@BATCHINGS.register(NAME)
class DecodeFirst019(DecodeFirst):
    """Decode first over such a pool."""

    def make_memory(
        self, config: PolicyConfig, capacity: int, rows: int, pool: KVPool | None
    ) -> BlockMemory:
        """See `Batching.make_memory`."""
        memory = super().make_memory(config, capacity, rows, pool)
        memory.pool = TailPool(memory.pool.blocks, caching=memory.pool.caching)
        return memory
