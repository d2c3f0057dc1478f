"""What LRU caches of every size would have found, from one pass over the prompts.

A block is in a least-recently-used cache of so many blocks if fewer others were touched since it
was: its stack distance (Mattson et al., "Evaluation techniques for storage hierarchies", IBM Systems
Journal, 1970). A prompt enters whole when it arrives, and its blocks are touched from the last to
the first, so that leaves leave before the roots they hang on. So the blocks of a prompt that the
same earlier prompt touched last stand next to each other in the stack, and a whole run of them costs
one look-up. Outputs are not cached, and time plays no role.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Reuse:
    """Where the blocks of prompts stood in the stack when they came again.

    Attributes:
        block_size: tokens per block.
        lengths: tokens of each prompt; int64, shape (prompts,).
        prompt: of each run of blocks found, the prompt it is of; int64, shape (runs,).
        distance: how many blocks had been touched since its first block was. Each further one has
            one more; int64, shape (runs,).
        blocks: how many it has; int64, shape (runs,).
        tokens: how many these are, less than `blocks * block_size` where the last is partial; int64,
            shape (runs,).
        uses: how many prompts have each block; int64, shape (unique blocks,).
    """

    block_size: int
    lengths: NDArray[np.int64]
    prompt: NDArray[np.int64]
    distance: NDArray[np.int64]
    blocks: NDArray[np.int64]
    tokens: NDArray[np.int64]
    uses: NDArray[np.int64]

    def hits(self, capacity: int | None = None) -> NDArray[np.int64]:
        """Leading blocks found of each prompt by a cache of `capacity` blocks; None is endless."""
        found = np.zeros(len(self.lengths), dtype=np.int64)
        np.add.at(found, self.prompt, self._found(capacity))
        return found

    def hit_ratio(self, capacity: int | None = None) -> float:
        """Share of all prompt tokens that a cache of `capacity` blocks finds; None is endless."""
        tokens = np.minimum(self._found(capacity) * self.block_size, self.tokens)
        return int(tokens.sum()) / int(self.lengths.sum())

    def _found(self, capacity: int | None) -> NDArray[np.int64]:
        if capacity is None:
            return self.blocks
        return np.clip(capacity - self.distance, 0, self.blocks)


def reuse(
    prompts: Iterable[NDArray[np.int64]], lengths: NDArray[np.int64], block_size: int
) -> Reuse:
    """Finds the stack distances of all prompts.

    Args:
        prompts: the blocks of each, as `traces.prefixes.prompt_blocks` numbers them.
        lengths: tokens of each; int64, shape (prompts,).
        block_size: tokens per block.
    """
    last = np.empty(1024, dtype=np.int64)  # the prompt that touched each block last
    uses = np.zeros(1024, dtype=np.int64)
    unique = 0
    touched = _Counts(len(lengths))  # blocks that were last touched by each prompt
    runs: list[tuple[int, int, int, int]] = []
    for row, (blocks, length) in enumerate(zip(prompts, lengths.tolist(), strict=True)):
        seen = int(np.count_nonzero(blocks < unique))  # new numbers follow those seen
        owners = last[blocks[:seen]]
        bounds = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), seen] if seen else [0]
        distances = []
        for start, end in pairwise(bounds):
            owner = int(owners[start])
            distances.append((owner, unique - touched.up_to(owner), start, end))
        for owner, distance, start, end in distances:
            worth = min(end * block_size, length) - start * block_size
            runs.append((row, distance, end - start, worth))
            touched.add(owner, start - end)
        touched.add(row, len(blocks))
        unique += len(blocks) - seen
        while unique > len(last):
            last = np.concatenate((last, np.empty_like(last)))
            uses = np.concatenate((uses, np.zeros_like(uses)))
        last[blocks] = row
        uses[blocks] += 1
    table = np.array(runs, dtype=np.int64).reshape(-1, 4)
    return Reuse(
        block_size,
        lengths,
        prompt=table[:, 0],
        distance=table[:, 1],
        blocks=table[:, 2],
        tokens=table[:, 3],
        uses=uses[:unique],
    )


class _Counts:
    """Counts per index whose sums up to an index are quick: a Fenwick tree."""

    def __init__(self, size: int) -> None:
        self._tree = [0] * (size + 1)

    def add(self, index: int, amount: int) -> None:
        at = index + 1
        while at < len(self._tree):
            self._tree[at] += amount
            at += at & -at

    def up_to(self, index: int) -> int:
        """Sum of the counts 0..index."""
        total, at = 0, index + 1
        while at:
            total += self._tree[at]
            at -= at & -at
        return total
