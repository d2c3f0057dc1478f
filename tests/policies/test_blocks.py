"""The block pool against a plain model, and the block memory's promises about what can be found."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies import Request, TokenLog
from policies.kv.block_memory import BlockMemory
from policies.kv.blocks import BlockPool, chain_hashes, chain_seed

CONTENTS = [bytes([value]) for value in range(6)]


class PoolModel:
    """What a block pool does, said plainly: lists searched from their beginning."""

    def __init__(self, blocks: int, *, caching: bool) -> None:
        self.caching = caching
        self.queue = list(range(1, blocks + 1))
        self.references = dict.fromkeys(self.queue, 0)
        self.found: dict[bytes, list[int]] = {}  # blocks with that content, first entered first

    def hash_of(self, block: int) -> bytes | None:
        return next((value for value, blocks in self.found.items() if block in blocks), None)

    def take(self, count: int) -> list[int]:
        taken, self.queue = self.queue[:count], self.queue[count:]
        for block in taken:
            self.references[block] = 1
            self.forget(block)
        return taken

    def enter(self, block: int, value: bytes) -> None:
        if self.caching:
            self.found.setdefault(value, []).append(block)

    def forget(self, block: int) -> None:
        value = self.hash_of(block)
        if value is not None:
            self.found[value].remove(block)
            if not self.found[value]:
                del self.found[value]

    def lookup(self, hashes: list[bytes]) -> list[int]:
        blocks = []
        for value in hashes:
            if value not in self.found:
                break
            blocks.append(self.found[value][0])
        return blocks

    def touch(self, blocks: list[int]) -> None:
        for block in blocks:
            self.references[block] += 1
            if block in self.queue:
                self.queue.remove(block)

    def release(self, blocks: list[int]) -> None:
        freed = []
        for block in reversed(blocks):
            self.references[block] -= 1
            if self.references[block] == 0:
                freed.append(block)
        unhashed = [block for block in freed if self.hash_of(block) is None]
        hashed = [block for block in freed if self.hash_of(block) is not None]
        self.queue = unhashed + self.queue + hashed


class PoolMachine(RuleBasedStateMachine):
    """A pool and its model, with holders as requests would be."""

    @initialize(blocks=st.integers(1, 12), caching=st.booleans())
    def begin(self, blocks: int, caching: bool) -> None:
        self.pool = BlockPool(blocks, caching=caching)
        self.model = PoolModel(blocks, caching=caching)
        self.holders: list[list[int]] = []

    @rule(count=st.integers(0, 5))
    def take(self, count: int) -> None:
        if count > self.pool.free:
            return
        taken = self.pool.take(count)
        assert taken == self.model.take(count)
        self.holders.append(taken)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def enter(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        value = data.draw(st.sampled_from(CONTENTS))
        block = next((b for b in holder if self.model.hash_of(b) is None), None)
        if block is not None:
            self.pool.enter(block, value)
            self.model.enter(block, value)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        for block in data.draw(st.sampled_from(self.holders))[-2:]:
            self.pool.forget(block)
            self.model.forget(block)

    @rule(chain=st.lists(st.sampled_from(CONTENTS), unique=True))
    def find_and_touch(self, chain: list[bytes]) -> None:
        found = self.pool.lookup(chain)
        assert found == self.model.lookup(chain)
        idle = sum(self.model.references[block] == 0 for block in found)
        assert self.pool.unreferenced(found) == idle
        self.pool.touch(found)
        self.model.touch(found)
        self.holders.append(found)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.pool.release(holder)
        self.model.release(holder)

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool, model = self.pool, self.model
        findable = [(b, model.hash_of(b) is not None) for b in model.queue]
        assert pool.queue() == findable
        assert pool.free == len(model.queue)
        assert pool.reusable == sum(found for _, found in findable)
        assert pool.hashes == len(model.found)
        assert pool.findable == sum(map(len, model.found.values()))
        pool.check(self.holders)


TestThePoolAndThePlainModelAgree: Any = PoolMachine.TestCase


def test_unhashed_blocks_are_reused_first_and_of_a_request_the_deepest() -> None:
    pool = BlockPool(6, caching=True)
    held = pool.take(4)
    for block, value in zip(held[:2], CONTENTS, strict=False):
        pool.enter(block, value)
    pool.release(held)
    assert pool.queue() == [
        (4, False), (3, False), (5, False), (6, False), (2, True), (1, True)
    ]  # fmt: skip
    assert pool.evicted == 0
    pool.take(5)
    assert pool.evicted == 1
    assert pool.lookup(CONTENTS[:2]) == [1]


def test_of_equal_blocks_the_first_entered_is_found_until_it_is_gone() -> None:
    pool = BlockPool(3, caching=True)
    (first,), (second,) = pool.take(1), pool.take(1)
    for block in (first, second):
        pool.enter(block, CONTENTS[0])
    assert (pool.hashes, pool.findable) == (1, 2)
    assert pool.lookup(CONTENTS[:1]) == [first]
    pool.forget(first)
    assert pool.lookup(CONTENTS[:1]) == [second]


def test_equal_hashes_mean_equal_tokens_from_the_beginning_on() -> None:
    tokens = np.arange(8, dtype=np.int32)
    whole = chain_hashes(chain_seed(None), tokens, 4)
    assert len(whole) == 2
    assert whole[1] == chain_hashes(whole[0], tokens[4:], 4)[0]
    assert whole[1] != chain_hashes(chain_seed(None), tokens[4:], 4)[0]  # same block, no prefix
    assert whole[0] != chain_hashes(chain_seed("a"), tokens, 4)[0]  # another namespace
    assert chain_hashes(b"", tokens[:3], 4) == []  # no full block


def test_a_lookup_leaves_a_token_to_compute_and_a_match_for_orders_does_not() -> None:
    memory = BlockMemory(64, 4, 2, caching=True)
    first, again = (Request(name, TokenLog(list(range(8))), 4) for name in "ab")
    memory.start(first, memory.lookup(first))
    assert memory.extend(first, 8)
    memory.register(first, 8)
    assert memory.lookup(again) == first.blocks[:1]
    assert memory.match_whole(again).length == 8
    memory.unregister(first, 0)
    assert memory.lookup(again) == []


def test_blocks_that_are_not_there_are_not_given_in_part() -> None:
    memory = BlockMemory(16, 4, 2, caching=False)
    request = Request("a", TokenLog(list(range(20))), 4)
    memory.start(request, [])
    assert not memory.extend(request, 17)
    assert request.blocks == []
    assert memory.free == 16
    assert memory.extend(request, 16)
    assert memory.free == 0
