"""The running batch, which counts rounds, against requests that are advanced one by one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import IndexedPool, Request, TokenLog
from policies.running import RunningBatch

if TYPE_CHECKING:
    from policies import DecodeRows


@dataclass(eq=False)
class Naive:
    """One request, its lengths kept as plain numbers."""

    request: Request
    kv_len: int
    outputs: int
    fresh: bool = True  # no decode round since it joined
    prefill_in_flight: bool = False
    rounds_in_flight: int = 0
    gone: bool = False  # ended or retracted

    @property
    def will_have(self) -> int:
        """Outputs once all that is in flight is committed."""
        return self.outputs + self.prefill_in_flight + self.rounds_in_flight


@dataclass
class Model:
    """A running batch and its naive twin."""

    page_size: int
    depth: int  # rounds in flight at most: 1 is the serial loop, 2 the overlapped one
    members: list[Naive] = field(default_factory=list)
    left: list[Naive] = field(default_factory=list)  # their last token in flight
    flight: deque[tuple[DecodeRows, list[Naive]]] = field(default_factory=deque)
    made: int = 0

    def __post_init__(self) -> None:
        self.running = RunningBatch(self.page_size)
        self.pool = IndexedPool(100_000, self.page_size, 1000)

    def join(self, sizes: list[tuple[int, int, int]], *, front: bool) -> None:
        new = []
        for prompt, made, more in sizes:
            self.made += 1
            request = Request(f"r{self.made}", TokenLog([1] * prompt), made + more)
            request.row = self.pool.take_row()
            self.pool.extend(request.row, 0, prompt + made)
            request._kv_len = prompt + made
            request._output_len = made  # those it had before it was retracted
            naive = Naive(request, prompt + made, made, prefill_in_flight=True)
            if self.depth == 1:
                self.accept_prefill(naive)
            if not naive.gone:
                new.append(naive)
        self.running.join([n.request for n in new], front=front)
        self.members = [*new, *self.members] if front else [*self.members, *new]

    def accept_prefill(self, naive: Naive) -> None:
        naive.prefill_in_flight = False
        naive.outputs += 1
        naive.request._output_len += 1
        if naive.outputs >= naive.request.max_new_tokens:
            self.end(naive)

    def end(self, naive: Naive) -> None:
        naive.gone = True
        naive.request.epoch += 1
        was_member = self.running.settle(naive.request)
        assert was_member == (naive in self.members)
        for group in (self.members, self.left):
            if naive in group:
                group.remove(naive)
        self.check_one(naive)

    def plan(self) -> None:
        if len(self.flight) >= self.depth:
            return
        finishing = [n for n in self.members if n.will_have >= n.request.max_new_tokens]
        assert self.running.leave_finishing() == bool(finishing)
        self.members = [n for n in self.members if n not in finishing]
        self.left += finishing
        self.check()
        if not self.members:
            return
        new_pages = [n for n in self.members if n.kv_len % self.page_size == 0]
        assert self.running.pages_needed() == len(new_pages)
        fresh = [n.request for n in self.members if n.fresh]
        rows = self.running.advance()
        free = self.pool.free_tokens
        self.pool.extend_round(rows, len(new_pages))
        assert free - self.pool.free_tokens == len(new_pages) * self.page_size
        for naive in self.members:
            naive.kv_len += 1
            naive.fresh = False
            naive.rounds_in_flight += 1
        assert list(rows.requests) == [n.request for n in self.members]
        assert set(rows.joined) == set(fresh)
        assert rows.seq_lens().tolist() == [n.kv_len for n in self.members]
        assert rows.cohort.rows.tolist() == [n.request.row for n in self.members]
        assert rows.kv_tokens == sum(n.kv_len for n in self.members) == self.running.kv_tokens
        for naive in self.members:
            pages = self.pool.table[naive.request.row, : -(-naive.kv_len // self.page_size)]
            assert (pages > 0).all()
            assert len(set(pages.tolist())) == len(pages)
        self.flight.append((rows, list(self.members)))

    def commit(self) -> None:
        """Accept the oldest round; before it, the prefills that were launched before it."""
        for naive in [n for n in (*self.members, *self.left) if n.prefill_in_flight]:
            self.accept_prefill(naive)
        if not self.flight:
            return
        rows, members = self.flight.popleft()
        late = self.running.commit(rows)
        assert {r.id for r in late} == {n.request.id for n in members if n.gone}
        for naive in members:
            naive.rounds_in_flight -= 1
            naive.outputs += not naive.gone
        due = [n for n in members if not n.gone and n.outputs >= n.request.max_new_tokens]
        assert {r.id for r in self.running.due()} == {n.request.id for n in due}
        for naive in due:
            self.end(naive)

    def stop(self, which: int) -> None:
        """One ends early: an EOS, an abort, a retraction."""
        alive = [*self.members, *self.left]
        if alive:
            self.end(alive[which % len(alive)])

    def reorder(self) -> None:
        self.members.reverse()
        self.running.keep([n.request for n in self.members])

    def check_one(self, naive: Naive) -> None:
        assert naive.request.kv_len == naive.kv_len
        assert naive.request.output_len == naive.outputs
        assert naive.request.seq_len == naive.request.prompt_len + naive.outputs

    def check(self) -> None:
        assert [r.id for r in self.running] == [n.request.id for n in self.members]
        assert len(self.running) == len(self.members)
        assert self.running.in_flight == len(self.flight)
        assert self.running.kv_tokens == sum(n.kv_len for n in self.members)
        remaining, most = sum(self.running.remaining_tokens()), self.running.remaining_at_most()
        assert remaining <= most <= remaining + 2 * len(self.members)
        for naive in (*self.members, *self.left):
            self.check_one(naive)


SIZES = st.tuples(st.integers(1, 20), st.integers(0, 3), st.integers(1, 6))
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.lists(SIZES, min_size=1, max_size=3), st.booleans()),
        st.tuples(st.just("plan")),
        st.tuples(st.just("plan")),
        st.tuples(st.just("commit")),
        st.tuples(st.just("commit")),
        st.tuples(st.just("stop"), st.integers(0, 5)),
        st.tuples(st.just("reorder")),
    ),
    min_size=20,
)


@pytest.mark.parametrize("depth", [1, 2])
@given(st.sampled_from((1, 2, 4, 16)), OPERATIONS)
def test_counting_rounds_is_advancing_one_by_one(
    depth: int, page_size: int, operations: list[tuple[Any, ...]]
) -> None:
    model = Model(page_size, depth)
    for name, *arguments in operations:
        if name == "join":
            model.join(arguments[0], front=arguments[1])
        else:
            getattr(model, name)(*arguments)
        model.check()
    while model.members or model.flight or model.left:
        model.plan()
        model.check()
        model.commit()
        model.check()


def test_rounds_are_committed_in_order() -> None:
    running = RunningBatch(1)
    running.join([Request("a", TokenLog([1]), 9)])
    running.advance()
    second = running.advance()
    with pytest.raises(RuntimeError, match="round 1 committed, but round 0 is the oldest"):
        running.commit(second)


def test_a_batch_is_a_snapshot() -> None:
    running = RunningBatch(1)
    first, second = (Request(name, TokenLog([1] * 5), 9) for name in "ab")
    for request in (first, second):
        request._kv_len = 5
    running.join([first])
    before = running.advance()
    lengths = before.seq_lens()
    running.join([second])
    running.advance()
    assert before.requests == (first,)
    assert before.seq_lens().tolist() == lengths.tolist() == [6]
    assert before.kv_tokens == 6


def test_nobody_is_due_while_sitting_out() -> None:
    """Who left for a while ends later than it would have: its old end is not its end."""
    running = RunningBatch(1)
    sits_out, goes_on = Request("a", TokenLog([1, 2]), 3), Request("b", TokenLog([1, 2]), 9)
    for request in (sits_out, goes_on):
        request._kv_len, request._output_len = 2, 1
    running.join((sits_out, goes_on))

    def round_() -> list[Request]:
        running.commit(running.advance())
        return running.due()

    assert round_() == []
    running.leave((sits_out,))
    assert [round_() for _ in range(3)] == [[], [], []]
    running.join((sits_out,))
    assert round_() == [sits_out]
    assert sits_out.output_len == 3
