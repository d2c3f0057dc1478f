"""The block pool against a plain model, and the block memory's promises about what can be found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies import Request, TokenLog
from policies.kv.block_memory import BlockMemory
from policies.kv.blocks import BlockPool
from policies.running import RunningBatch

CONTENTS = [1, 2, 3, 4, 5, 9]


def group(numbers: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(numbers, dtype=np.int64)


class PoolModel:
    """What a block pool does, said plainly: lists searched from their beginning."""

    def __init__(self, blocks: int, *, caching: bool) -> None:
        self.caching = caching
        self.queue = list(range(1, blocks + 1))
        self.references = dict.fromkeys(self.queue, 0)
        self.found: dict[int, list[int]] = {}  # blocks with that content, first entered first

    def contents_of(self, block: int) -> int | None:
        return next((value for value, blocks in self.found.items() if block in blocks), None)

    def take(self, count: int) -> list[int]:
        taken, self.queue = self.queue[:count], self.queue[count:]
        for block in taken:
            self.references[block] = 1
            self.forget(block)
        return taken

    def enter(self, block: int, value: int) -> None:
        if self.caching:
            self.found.setdefault(value, []).append(block)

    def forget(self, block: int) -> None:
        value = self.contents_of(block)
        if value is not None:
            self.found[value].remove(block)
            if not self.found[value]:
                del self.found[value]

    def lookup(self, contents: list[int]) -> list[int]:
        blocks = []
        for value in contents:
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
        empty = [block for block in freed if self.contents_of(block) is None]
        full = [block for block in freed if self.contents_of(block) is not None]
        self.queue = empty + self.queue + full


class PoolMachine(RuleBasedStateMachine):
    """A pool and its model, with holders as requests would be."""

    @initialize(blocks=st.integers(1, 12), caching=st.booleans())
    def begin(self, blocks: int, caching: bool) -> None:
        self.pool = BlockPool(blocks, caching=caching)
        self.pool.reach(max(CONTENTS) + 1)
        self.model = PoolModel(blocks, caching=caching)
        self.holders: list[list[int]] = []

    @rule(count=st.integers(0, 5))
    def take(self, count: int) -> None:
        if count > self.pool.free:
            return
        could_be_found = [self.model.contents_of(b) is not None for b in self.model.queue[:count]]
        taken, lost = self.pool.take(count)
        assert taken.tolist() == self.model.take(count)
        assert (lost != 0).tolist() == could_be_found
        self.holders.append(taken.tolist())

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def enter(self, data: st.DataObject) -> None:
        """Blocks of several holders at once, some with the same contents as others."""
        held = {block for holder in self.holders for block in holder}
        empty = sorted(b for b in held if self.model.contents_of(b) is None)
        count = data.draw(st.integers(0, len(empty)))
        blocks = data.draw(st.permutations(empty))[:count]
        contents = [data.draw(st.sampled_from(CONTENTS)) for _ in blocks]
        self.pool.enter(group(blocks), group(contents))
        for block, value in zip(blocks, contents, strict=True):
            self.model.enter(block, value)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        blocks = data.draw(st.sampled_from(self.holders))[-2:]
        self.pool.forget(group(blocks))
        for block in blocks:
            self.model.forget(block)

    @rule(chain=st.lists(st.sampled_from(CONTENTS), unique=True))
    def find_and_touch(self, chain: list[int]) -> None:
        found = self.pool.lookup(group(chain))
        assert found.tolist() == self.model.lookup(chain)
        idle = sum(self.model.references[block] == 0 for block in found.tolist())
        assert self.pool.unreferenced(found) == idle
        self.pool.touch(found)
        self.model.touch(found.tolist())
        self.holders.append(found.tolist())

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.pool.release(group(holder))
        self.model.release(holder)

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool, model = self.pool, self.model
        findable = [(b, model.contents_of(b) is not None) for b in model.queue]
        assert pool.queue() == findable
        assert pool.free == len(model.queue)
        assert pool.reusable == sum(found for _, found in findable)
        assert pool.different == len(model.found)
        assert pool.findable == sum(map(len, model.found.values()))
        contents = pool.contents().tolist()
        assert contents[1:] == [model.contents_of(b) or 0 for b in range(1, pool.blocks + 1)]
        pool.check(self.holders)


TestThePoolAndThePlainModelAgree: Any = PoolMachine.TestCase


def test_blocks_without_contents_are_reused_first_and_of_a_request_the_deepest() -> None:
    pool = BlockPool(6, caching=True)
    pool.reach(10)
    held, _ = pool.take(4)
    pool.enter(held[:2], group(CONTENTS[:2]))
    pool.release(held)
    assert pool.queue() == [
        (4, False), (3, False), (5, False), (6, False), (2, True), (1, True)
    ]  # fmt: skip
    assert pool.evicted == 0
    pool.take(5)
    assert pool.evicted == 1
    assert pool.lookup(group(CONTENTS[:2])).tolist() == [1]


def test_of_equal_blocks_the_first_entered_is_found_until_it_is_gone() -> None:
    pool = BlockPool(3, caching=True)
    pool.reach(10)
    both, _ = pool.take(2)
    pool.enter(both, group([CONTENTS[0]] * 2))
    assert (pool.different, pool.findable) == (1, 2)
    assert pool.lookup(group(CONTENTS[:1])).tolist() == [1]
    pool.forget(both[:1])
    assert pool.lookup(group(CONTENTS[:1])).tolist() == [2]


def test_of_blocks_entered_together_the_first_is_found() -> None:
    """Also where another among them is a twin of one that was there."""
    pool = BlockPool(4, caching=True)
    pool.reach(10)
    blocks, _ = pool.take(4)
    pool.enter(blocks[:1], group([5]))
    pool.enter(blocks[1:], group([6, 5, 6]))
    assert pool.lookup(group([5, 6])).tolist() == [1, 2]
    pool.forget(blocks[:2])
    assert pool.lookup(group([5, 6])).tolist() == [3, 4]
    pool.check([blocks.tolist()])


def test_a_lookup_leaves_a_token_to_compute_and_a_match_for_orders_does_not() -> None:
    memory = BlockMemory(64, 4, 2, caching=True)
    first, again = (Request(name, TokenLog(list(range(8))), 4) for name in "ab")
    memory.start(first, memory.lookup(first))
    assert memory.extend(first, 8)
    memory.register(first, 8)
    assert memory.lookup(again).tolist() == list(first.blocks[:1])
    assert memory.match_whole(again).length == 8
    memory.unregister(first, 0)
    assert memory.lookup(again).tolist() == []


def test_blocks_that_are_not_there_are_not_given_in_part() -> None:
    memory = BlockMemory(16, 4, 2, caching=False)
    request = Request("a", TokenLog(list(range(20))), 4)
    memory.start(request, memory.lookup(request))
    assert not memory.extend(request, 17)
    assert list(request.blocks) == []
    assert memory.free == 16
    assert memory.extend(request, 16)
    assert memory.free == 0


class Decoding:
    """Requests that share prefixes, prefilled and decoding, in a memory of their own."""

    def __init__(self, prompts: list[tuple[int, int]], size: int, *, caching: bool) -> None:
        self.memory = BlockMemory(size * 400, size, len(prompts) + 1, caching=caching)
        self._leave_something_cached(size)
        self.running = RunningBatch(size)
        self.requests = []
        for i, (family, length) in enumerate(prompts):
            text = [family] * length + [7] * 200
            request = Request(f"r{i}", TokenLog(text), 200)
            request.prompt_len = length  # the rest is sampled in time
            self.memory.start(request, self.memory.lookup(request))
            assert self.memory.extend(request, length)
            self.memory.register(request, length)
            request._kv_len = length
            self.requests.append(request)
        self.running.join(self.requests)

    def _leave_something_cached(self, size: int) -> None:
        """Blocks in the free queue that can be found, so that taking them evicts."""
        old = Request("old", TokenLog([5] * (100 * size)), 1)
        self.memory.start(old, self.memory.lookup(old))
        assert self.memory.extend(old, 100 * size)
        self.memory.register(old, 100 * size)
        self.memory.finish(old)

    def round(self, known_ahead: int) -> None:
        self.memory.extend_round(self.running, known_ahead=known_ahead)
        self.running.advance()

    def gauges(self) -> list[int]:
        memory = self.memory
        return [memory.free, memory.evictable, memory.protected, memory.evicted_tokens]

    def state(self) -> Any:
        """What everyone holds, and which blocks hold the same; numbers stand for it as it was asked."""
        pool = self.memory.pool
        requests = [(list(r.blocks), r.registered) for r in self.requests]
        alike = [
            [int(pool.found[value]), *pool._twins.get(value, [])]
            for value in set(pool.contents().tolist()) - {0}
        ]
        return requests, pool.queue(), sorted(alike)


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("known_ahead", [0, 1])
@given(
    st.lists(
        # those of family 7 go on as they begin: alike at whatever length
        st.tuples(st.sampled_from((1, 2, 7, 7)), st.integers(1, 20)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from((1, 3, 8)),
    st.integers(0, 5),
    st.integers(1, 40),
)
def test_many_rounds_at_once_are_as_many_one_by_one(
    caching: bool,
    known_ahead: int,
    prompts: list[tuple[int, int]],
    size: int,
    before: int,
    rounds: int,
) -> None:
    one, many = (Decoding(prompts, size, caching=caching) for _ in range(2))
    for _ in range(before):
        for each in (one, many):
            each.round(known_ahead)
    seen = []
    for _ in range(rounds):
        one.round(known_ahead)
        seen.append(one.gauges())
    gauges = many.memory.repeat_rounds(many.running, rounds, known_ahead=known_ahead)
    assert one.state() == many.state()
    assert gauges().T.tolist() == seen


@given(st.integers(1, 12), st.integers(1, 8), st.sampled_from((1, 3, 8)))
def test_a_block_entered_ahead_of_its_time_is_not_entered_again(
    length: int, rounds: int, size: int
) -> None:
    """As by one who sat out a step, and of whom all is known when it goes on."""
    one, many = (Decoding([(1, length), (2, length)], size, caching=True) for _ in range(2))
    for each in (one, many):
        each.round(0)
        each.memory.register(each.requests[0], length + 1)
    seen = []
    for _ in range(rounds):
        one.round(0)
        seen.append(one.gauges())
    gauges = many.memory.repeat_rounds(many.running, rounds, known_ahead=0)
    assert one.state() == many.state()
    assert gauges().T.tolist() == seen
    assert all(r.registered == (length + rounds) // size for r in one.requests[1:])


def test_a_round_gives_blocks_and_enters_them_in_the_order_of_its_members() -> None:
    decoding = Decoding([(1, 4), (2, 3), (1, 4)], 4, caching=True)
    memory, requests = decoding.memory, decoding.requests
    ahead = [block for block, _ in memory.pool.queue()[:2]]
    decoding.round(1)
    assert [r.blocks[-1] for r in (requests[0], requests[2])] == ahead
    assert [r.registered for r in requests] == [1, 1, 1]


def test_what_requests_held_and_asked_is_not_kept_for_good() -> None:
    """Numbers for contents do not grow with the requests that come and go."""
    memory = BlockMemory(64, 4, 2, caching=True)
    for i in range(200):
        request = Request(f"r{i}", TokenLog(list(range(100 * i, 100 * i + 40))), 4)
        memory.start(request, memory.lookup(request))
        assert memory.extend(request, 40)
        memory.register(request, 40)
        memory.finish(request)
        memory.forget(request)
    assert memory._contents.top < 100


def test_blocks_without_contents_return_to_the_head_or_with_all_others_to_the_tail() -> None:
    def freed(*, unhashed_first: bool) -> list[int]:
        pool = BlockPool(5, caching=True, unhashed_first=unhashed_first)
        pool.reach(3)
        blocks, _ = pool.take(3)
        pool.enter(blocks[:2], np.array([1, 2]))
        pool.release(blocks)
        assert pool.reusable == 2
        pool.check([])
        return [block for block, _ in pool.queue()]

    assert freed(unhashed_first=True) == [3, 4, 5, 2, 1]
    assert freed(unhashed_first=False) == [4, 5, 3, 2, 1]
