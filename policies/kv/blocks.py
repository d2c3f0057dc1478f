"""A pool of KV blocks that is its own prefix cache, after vLLM's V1 block pool.

A block that is full of known tokens can be found by the number of its contents, which stands for all
tokens up to its end. Nothing is ever evicted as such: a block that nobody refers to stands in the free
queue, can still be found there, and loses its contents when it is handed out again. The queue's order is
what makes that a cache: blocks without contents are freed to the head, to be reused at once, those with
contents to the tail, a request's last block before its first.

Blocks come in groups, as int64 arrays of their numbers, in which none occurs twice. The pool knows
neither requests nor why blocks are taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.kv.free_queue import FreeQueue

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    Int64Array = npt.NDArray[np.int64]


class BlockPool:
    """See the module. Blocks are numbered from 1; block 0 is never handed out.

    Args:
        blocks: usable blocks.
        caching: whether full blocks can be found by their contents.
        unhashed_first: whether freed blocks without contents go to the head; else to the tail, too.
    """

    def __init__(self, blocks: int, *, caching: bool, unhashed_first: bool = True) -> None:
        self.blocks = blocks
        self.caching = caching
        self.unhashed_first = unhashed_first
        self.findable = 0  # blocks that can be found by their contents
        self.reusable = 0  # those of them that nobody refers to
        self.evicted = 0  # blocks handed out that could still have been found, in all
        self._free = FreeQueue(blocks)
        self._references = np.zeros(blocks + 1, dtype=np.int64)
        self._contents = np.zeros(blocks + 1, dtype=np.int64)  # 0: it cannot be found
        # By contents the block entered first, or 0, and any later ones with the same, in order.
        self._found = np.zeros(0, dtype=np.int64)
        self._twins: dict[int, list[int]] = {}

    @property
    def free(self) -> int:
        """Blocks nobody refers to."""
        return self._free.length

    @property
    def found(self) -> Int64Array:
        """By contents the block that is found for them, or 0: int64, not to be written to."""
        return self._found

    @property
    def different(self) -> int:
        """Different contents that can be found."""
        return self.findable - sum(map(len, self._twins.values()))

    def contents(self) -> Int64Array:
        """What each block can be found by, 0 for nothing: int64, shape (blocks + 1,)."""
        return self._contents.copy()

    def queue(self) -> list[tuple[int, bool]]:
        """The free queue from its head: block, and whether it can still be found."""
        blocks = self._free.blocks()
        findable = self._contents[blocks] != 0
        return list(zip(blocks.tolist(), findable.tolist(), strict=True))

    def reach(self, top: int) -> None:
        """Make room for contents whose numbers are below `top`."""
        if top > len(self._found):
            self._found = np.concatenate(
                [self._found, np.zeros(2 * top - len(self._found), dtype=np.int64)]
            )

    def lookup(self, contents: Int64Array) -> Int64Array:
        """The blocks of the longest prefix of contents that is all there. Changes nothing."""
        blocks = self._found[contents]
        if np.count_nonzero(blocks) == len(blocks):
            return blocks
        return blocks[: int((blocks == 0).argmax())]

    def unreferenced(self, blocks: Int64Array) -> int:
        """How many of the blocks stand in the free queue."""
        if not len(blocks):
            return 0
        return len(blocks) - int(np.count_nonzero(self._references[blocks]))

    def touch(self, blocks: Int64Array) -> None:
        """Refer to blocks that were found; they leave the free queue."""
        if not len(blocks):
            return
        before = self._references[blocks]
        idle = blocks[np.logical_not(before)]
        self._references[blocks] = before + 1
        self._free.remove(idle)
        self.reusable -= len(idle)

    def take(self, count: int) -> tuple[Int64Array, Int64Array]:
        """Hand out blocks from the head of the free queue; they can no longer be found.

        Returns:
            the blocks, and what each could still have been found by, 0 for nothing.

        Raises:
            IndexError: where fewer are free.
        """
        taken = self._free.pop(count)
        self._references[taken] = 1
        lost = self._contents[taken]
        losses = int(np.count_nonzero(lost))
        if losses:
            self.reusable -= losses
            self.evicted += losses
            self._contents[taken] = 0
            if losses == count:
                self._lose(taken, lost)
            else:
                self._lose(taken[lost != 0], lost[lost != 0])
        return taken, lost

    def enter(self, blocks: Int64Array, contents: Int64Array) -> None:
        """Let full blocks that could not be found be found by their contents, in this order."""
        if not self.caching:
            return
        self.findable += len(blocks)
        self._contents[blocks] = contents
        found = self._found
        if np.count_nonzero(found[contents]):
            new = found[contents] == 0
            found[contents[new][::-1]] = blocks[new][::-1]
        else:
            found[contents[::-1]] = blocks[::-1]  # of several with the same contents the first
        later = found[contents] != blocks
        if np.count_nonzero(later):
            for block, value in zip(blocks[later].tolist(), contents[later].tolist(), strict=True):
                self._twins.setdefault(value, []).append(block)

    def forget(self, blocks: Int64Array) -> None:
        """Let blocks no longer be found; any that could not stay so."""
        contents = self._contents[blocks]
        self._contents[blocks] = 0
        self._lose(blocks[contents != 0], contents[contents != 0])

    def _lose(self, blocks: Int64Array, contents: Int64Array) -> None:
        """Blocks have lost their contents."""
        self.findable -= len(blocks)
        if not self._twins:
            self._found[contents] = 0
            return
        for block, value in zip(blocks.tolist(), contents.tolist(), strict=True):
            twins = self._twins.get(value)
            if twins is None:
                self._found[value] = 0
                continue
            if self._found[value] == block:
                self._found[value] = twins.pop(0)
            else:
                twins.remove(block)
            if not twins:
                del self._twins[value]

    def release(self, blocks: Int64Array) -> None:
        """Stop referring to a request's blocks, given in its own order."""
        blocks = blocks[::-1]
        left = self._references[blocks] - 1
        self._references[blocks] = left
        freed = blocks[left == 0] if np.count_nonzero(left) else blocks
        findable = self._contents[freed] != 0
        kept = int(np.count_nonzero(findable))
        self.reusable += kept
        if self.unhashed_first and kept < len(freed):
            self._free.push_front(freed[~findable])
            freed = freed[findable]
        self._free.append(freed)

    def check(self, held: Iterable[Iterable[int]]) -> None:
        """Raise AssertionError if references do not match the holders, or a block is lost."""
        references = np.zeros(self.blocks + 1, dtype=np.int64)
        for blocks in held:
            for block in blocks:
                references[block] += 1
        assert (references == self._references).all(), "references do not match the holders"
        free = np.flatnonzero(references[1:] == 0) + 1
        queue = self._free.blocks()
        assert len(queue) == self._free.length, "the free queue has lost count"
        assert np.array_equal(np.sort(queue), free), "the free queue is not what nobody refers to"
        assert self.reusable == np.count_nonzero(self._contents[free])
        assert self.findable == np.count_nonzero(self._contents)
        first = np.flatnonzero(self._found)
        assert self.findable == len(first) + sum(map(len, self._twins.values()))
        assert (self._contents[self._found[first]] == first).all()
        for value, twins in self._twins.items():
            assert twins, "an empty list of twins"
            assert self._found[value], "twins of nothing"
            assert (self._contents[twins] == value).all()
