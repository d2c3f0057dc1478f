"""A pool of KV blocks that is its own prefix cache, after vLLM's V1 block pool.

A block that is full of known tokens can be found by its hash, which chains the hashes of all blocks
before it. Nothing is ever evicted as such: a block that nobody refers to stands in the free queue, can
still be found there, and loses its contents when it is handed out again. The queue's order is what
makes that a cache: blocks without a hash are freed to the head, to be reused at once, those with one
to the tail, a request's last block before its first.

It knows neither requests nor why blocks are taken.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

    Int32Array = npt.NDArray[np.int32]


def chain_seed(extra_key: str | None) -> bytes:
    """What the chain of hashes in a namespace starts from."""
    return b"" if extra_key is None else sha256(extra_key.encode()).digest()


def chain_hashes(before: bytes, tokens: Int32Array, block_size: int) -> list[bytes]:
    """The hashes of the full blocks of `tokens`, which follow a block with the hash `before`.

    SHA-256 over the hash before and the block's ids, as vLLM does by default: equal hashes stand for
    equal tokens from the sequence's beginning on.
    """
    data = tokens.tobytes()
    width = block_size * tokens.itemsize
    hashes: list[bytes] = []
    for start in range(0, len(data) // width * width, width):
        before = sha256(before + data[start : start + width]).digest()
        hashes.append(before)
    return hashes


class BlockPool:
    """See the module. Blocks are numbered from 1; block 0 is never handed out.

    Args:
        blocks: usable blocks.
        caching: whether full blocks can be found by hash.
    """

    def __init__(self, blocks: int, *, caching: bool) -> None:
        self.blocks = blocks
        self.caching = caching
        self.findable = 0  # blocks that can be found by hash
        self.reusable = 0  # those of them that nobody refers to
        self.evicted = 0  # blocks handed out that could still have been found, in all
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, blocks + 1))
        self._references = [0] * (blocks + 1)
        self._hash: list[bytes | None] = [None] * (blocks + 1)
        # By hash the block entered first, and any later ones with the same contents, in order.
        self._found: dict[bytes, int] = {}
        self._twins: dict[bytes, list[int]] = {}

    @property
    def free(self) -> int:
        """Blocks nobody refers to."""
        return len(self._free)

    @property
    def hashes(self) -> int:
        """Different hashes that can be found."""
        return len(self._found)

    def queue(self) -> list[tuple[int, bool]]:
        """The free queue from its head: block, and whether it can still be found."""
        return [(block, self._hash[block] is not None) for block in self._free]

    def lookup(self, hashes: Sequence[bytes]) -> list[int]:
        """The blocks of the longest prefix of a chain that is all there. Changes nothing."""
        found = self._found
        blocks: list[int] = []
        for value in hashes:
            block = found.get(value)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def unreferenced(self, blocks: Iterable[int]) -> int:
        """How many of the blocks stand in the free queue."""
        return sum(1 for block in blocks if self._references[block] == 0)

    def touch(self, blocks: Iterable[int]) -> None:
        """Refer to blocks that were found; they leave the free queue."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
                self.reusable -= 1
            self._references[block] += 1

    def take(self, count: int) -> list[int]:
        """Hand out blocks from the head of the free queue; they can no longer be found.

        Raises:
            KeyError: where fewer are free.
        """
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._references[block] = 1
            if self._hash[block] is not None:
                self.reusable -= 1
                self.evicted += 1
                self.forget(block)
        return taken

    def enter(self, block: int, value: bytes) -> None:
        """Let a full block be found by its hash."""
        if self.caching:
            self.findable += 1
            self._hash[block] = value
            if self._found.setdefault(value, block) != block:
                self._twins.setdefault(value, []).append(block)

    def forget(self, block: int) -> None:
        """Let a referenced block no longer be found."""
        value = self._hash[block]
        if value is None:
            return
        self.findable -= 1
        self._hash[block] = None
        twins = self._twins.get(value)
        if twins is None:
            del self._found[value]
        elif self._found[value] == block:
            self._found[value] = twins.pop(0)
        else:
            twins.remove(block)
        if twins == []:
            del self._twins[value]

    def release(self, blocks: Sequence[int]) -> None:
        """Stop referring to a request's blocks, given in its own order."""
        unhashed: list[int] = []
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._hash[block] is None:
                    unhashed.append(block)
                else:
                    self._free[block] = None
                    self.reusable += 1
        for block in reversed(unhashed):
            self._free[block] = None
            self._free.move_to_end(block, last=False)

    def check(self, held: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError if references do not match the holders, or a block is lost."""
        references = [0] * (self.blocks + 1)
        for blocks in held:
            for block in blocks:
                references[block] += 1
        assert references == self._references, "references do not match the holders"
        free = {block for block in range(1, self.blocks + 1) if references[block] == 0}
        assert free == set(self._free), "the free queue is not what nobody refers to"
        assert self.reusable == sum(self._hash[block] is not None for block in free)
        assert self.findable == len(self._found) + sum(map(len, self._twins.values()))
        for value, block in self._found.items():
            twins = self._twins.get(value, [])
            assert value not in self._twins or twins, "an empty list of twins"
            assert all(self._hash[holder] == value for holder in (block, *twins))
