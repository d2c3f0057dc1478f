"""Random workloads in a crowded pool: whatever is decided, every answer is right.

The world of `world.py` checks invariants after every effect and audits the KV that each batch reads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    Batch,
    CountingPool,
    FinishReason,
    Inbox,
    IndexedPool,
    PolicyConfig,
    Request,
    Scheduler,
    StepResult,
    TokenLog,
)
from policies.kv.memory import KVMemory
from tests.policies.workloads import ORDERS, Case, cases
from tests.policies.world import Client, World

if TYPE_CHECKING:
    from collections.abc import Mapping


def world(case: Case, *, indexed: bool = True, **policy: Any) -> World:
    """A run of a case, to its end."""
    changed = PolicyConfig.model_validate(case.policy.model_dump() | policy)
    return World(changed, case.capacity, case.clients, case.aborts, indexed=indexed).run()


def answers(run: World) -> Mapping[str, tuple[FinishReason | None, int]]:
    return {name: (o.ended, o.accepted) for name, o in sorted(run.outcomes.items())}


@given(cases())
def test_every_request_gets_exactly_its_tokens_from_its_own_kv(case: Case) -> None:
    world(case).check_answers()


@pytest.mark.parametrize("order", ORDERS)
@given(data=st.data())
def test_under_every_order(order: str, data: st.DataObject) -> None:
    fixed: dict[str, Any] = {"cache": "radix"} if order == "shortest-prefill-first" else {}
    world(data.draw(cases(order=order, **fixed))).check_answers()


@given(cases(cache="none", batching="prefill-first"))
def test_without_a_cache(case: Case) -> None:
    world(case).check_answers()


@given(cases())
def test_real_pages_and_counted_pages_decide_the_same(case: Case) -> None:
    assert world(case, indexed=True).batches == world(case, indexed=False).batches


@given(cases(max_queued_requests=None, aborts=False))
def test_batching_and_overlap_change_no_answer(case: Case) -> None:
    runs = [
        world(case, indexed=False, batching=batching, overlap=overlap)
        for batching in ("prefill-first", "mixed", "static")
        for overlap in ("serial", "overlapped")
    ]
    for run in runs:
        run.check_answers()
    assert all(answers(run) == answers(runs[0]) for run in runs)


@given(cases())
def test_the_same_inputs_give_the_same_batches(case: Case) -> None:
    once, twice = world(case), world(case)
    assert once.batches == twice.batches
    assert answers(once) == answers(twice)


@given(cases(batching="static", prefill_decode_interval=0))
def test_nobody_joins_a_static_batch_that_decodes(case: Case) -> None:
    run = World(case.policy, case.capacity, case.clients, case.aborts)
    began = False  # a decode step was launched for the present batch
    for _ in run.rounds():
        if not run.s.running:
            began = False
        if run.batches and run.batches[-1][0] == run.step:
            mode = run.batches[-1][1]
            assert not (began and mode != "decode"), "prefill into a running static batch"
            began = began or mode == "decode"


# -- what a scheduler does not put up with ------------------------------------------------------

PLAIN = PolicyConfig(max_running_requests=4, chunked_prefill_size=None)


def test_numbers_must_be_resolved() -> None:
    with pytest.raises(TypeError, match=r"policy\.chunked_prefill_size is 'auto'; the world must"):
        Scheduler(PolicyConfig(max_running_requests=4), 100)


def test_an_id_in_use_is_an_error() -> None:
    s = Scheduler(PLAIN, 100)
    s.receive(Inbox(0, [Request("a", TokenLog([1]), 2)]))
    with pytest.raises(ValueError, match="request id 'a' is in use"):
        s.receive(Inbox(1, [Request("a", TokenLog([1]), 2)]))


def test_batches_are_committed_in_order() -> None:
    s = Scheduler(PLAIN, 100)
    s.receive(Inbox(0, [Request("a", TokenLog([1]), 2)]))
    batch = s.next_batch()
    assert isinstance(batch, Batch)
    with pytest.raises(RuntimeError, match="not the oldest launched"):
        s.commit(replace(batch, iteration=99), StepResult())


def test_a_leak_is_noticed() -> None:
    pool = CountingPool(100, 1, 4)
    s = Scheduler(PLAIN, 100, pool)
    s.receive(Inbox(0, [Request("a", TokenLog([1, 2]), 2)]))
    s.next_batch()
    s.check_integrity()
    pool.extend(1, 2, 3)
    with pytest.raises(AssertionError, match=r"97 free .* capacity 100"):
        s.check_integrity()


def test_a_lost_lock_is_noticed() -> None:
    clients = [Client("a", (5, 6, 7), (), 9)]
    run = World(PLAIN, 100, clients)
    for _ in run.rounds():
        if run.step == 2:
            break
    run.s.check_integrity()
    assert isinstance(run.s.memory, KVMemory)
    run.s.memory.cache.unlock(run.requests["a"].lock)
    with pytest.raises(AssertionError, match="has 0 locks, 1 holders"):
        run.s.check_integrity()


def test_a_wrong_page_is_noticed_by_the_audit() -> None:
    clients = [Client("a", (5, 6, 7), (), 9), Client("b", (8, 9), (), 9)]
    run = World(PLAIN, 100, clients)
    rounds = run.rounds()
    while run.step < 2:
        next(rounds)
    assert isinstance(run.pool, IndexedPool)
    table = run.pool.table
    table[run.requests["a"].row, 0] = table[run.requests["b"].row, 0]
    with pytest.raises(AssertionError, match=r"the KV at 0 of \d is another"):
        next(rounds)
