"""The queue of free blocks against a plain list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policies.kv.free_queue import FreeQueue


def blocks_of(numbers: list[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(numbers, dtype=np.int64)


class QueueMachine(RuleBasedStateMachine):
    """A queue, the list it should equal, and the blocks that are out."""

    @initialize(blocks=st.integers(0, 40))
    def begin(self, blocks: int) -> None:
        self.queue = FreeQueue(blocks)
        self.plain = list(range(1, blocks + 1))
        self.out: list[int] = []

    @rule(share=st.floats(0, 1))
    def pop(self, share: float) -> None:
        count = round(share * len(self.plain))
        taken = self.queue.pop(count).tolist()
        assert taken == self.plain[:count]
        self.plain = self.plain[count:]
        self.out += taken

    @rule(data=st.data(), front=st.booleans())
    def put_back(self, data: st.DataObject, front: bool) -> None:
        back = data.draw(st.lists(st.sampled_from(self.out), unique=True)) if self.out else []
        self.out = [block for block in self.out if block not in back]
        if front:
            self.queue.push_front(blocks_of(back))
            self.plain = back + self.plain
        else:
            self.queue.append(blocks_of(back))
            self.plain += back

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(self.plain), unique=True)) if self.plain else []
        self.queue.remove(blocks_of(gone))
        self.plain = [block for block in self.plain if block not in gone]
        self.out += gone

    @invariant()
    def they_agree(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.blocks().tolist() == self.plain
            assert self.queue.length == len(self.plain)


TestTheQueueIsAList: Any = QueueMachine.TestCase


@pytest.mark.parametrize("front", [True, False])
def test_it_never_runs_out_of_room(front: bool) -> None:
    """Round and round, in either direction, many times the length of the array."""
    queue, plain = FreeQueue(20), list(range(1, 21))
    for i in range(400):
        count = 1 + i % 7
        if front:
            moved, plain = plain[-count:], plain[:-count]
            queue.remove(blocks_of(moved))
            queue.push_front(blocks_of(moved))
            plain = moved + plain
        else:
            moved, plain = plain[:count], plain[count:]
            assert queue.pop(count).tolist() == moved
            queue.append(blocks_of(moved))
            plain += moved
        assert queue.blocks().tolist() == plain


def test_what_is_taken_stays_as_it_is() -> None:
    queue = FreeQueue(4)
    taken = queue.pop(2)
    queue.push_front(taken[::-1])
    assert taken.tolist() == [1, 2]
    assert queue.pop(2).tolist() == [2, 1]


def test_more_than_there_are_cannot_be_taken() -> None:
    queue = FreeQueue(3)
    queue.pop(1)
    with pytest.raises(IndexError, match="3 blocks asked for, 2 are free"):
        queue.pop(3)
    assert queue.blocks().tolist() == [2, 3]
