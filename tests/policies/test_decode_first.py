"""Batching decode-first on random workloads in a crowded pool: whatever is decided, every answer is right.

The world of `block_world.py` checks invariants after every effect and audits the blocks that each batch
reads: a block that was found by its hash must hold the request's own tokens by the time it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import FinishReason, PolicyConfig, Request, Scheduler, TokenLog
from policies.batch import Inbox, StepResult
from policies.batching.grants import Grants
from tests.policies.block_world import ORDERS, BlockWorld, block_cases
from tests.policies.world import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.policies.workloads import Case


def world(case: Case, **policy: Any) -> BlockWorld:
    """A run of a case, to its end."""
    changed = PolicyConfig.model_validate(case.policy.model_dump() | policy)
    run = BlockWorld(changed, case.capacity, case.clients, case.aborts)
    run.run()
    return run


def answers(run: BlockWorld) -> Mapping[str, tuple[FinishReason | None, int]]:
    return {name: (o.ended, o.accepted) for name, o in sorted(run.outcomes.items())}


@given(block_cases())
def test_every_request_gets_exactly_its_tokens_from_its_own_kv(case: Case) -> None:
    world(case).check_answers()


FEWER = settings(max_examples=settings().max_examples // 4)


@pytest.mark.parametrize("order", ORDERS)
@FEWER
@given(data=st.data())
def test_under_every_order(order: str, data: st.DataObject) -> None:
    fixed: dict[str, Any] = {"cache": "blocks"} if order == "shortest-prefill-first" else {}
    world(data.draw(block_cases(order=order, **fixed))).check_answers()


@given(block_cases(cache="none"))
def test_without_a_cache(case: Case) -> None:
    world(case).check_answers()


@given(block_cases(cache="blocks", priority={"enabled": True, "low_values_first": True}))
def test_under_priorities(case: Case) -> None:
    world(case).check_answers()


@FEWER
@given(block_cases())
def test_handing_out_to_all_at_once_is_handing_out_one_by_one(case: Case) -> None:
    """Otherwise a step in which everyone gets what they need would be another than it is said to be."""
    at_once = world(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grants, "grant_round", lambda *_: False)
        one_by_one = world(case)
    assert at_once.batches == one_by_one.batches
    pools = [run.blocks.pool for run in (at_once, one_by_one)]
    assert pools[0].queue() == pools[1].queue()
    assert pools[0].evicted == pools[1].evicted


@FEWER
@given(block_cases())
def test_the_same_case_decides_the_same(case: Case) -> None:
    assert world(case).batches == world(case).batches


@FEWER
@given(block_cases(max_queued_requests=None, aborts=False))
def test_overlap_and_cache_change_no_answer(case: Case) -> None:
    order = "fcfs" if case.policy.order == "shortest-prefill-first" else case.policy.order
    runs = [
        world(case, overlap=overlap, cache=cache, order=order, order_options={})
        for overlap in ("serial", "overlapped")
        for cache in ("blocks", "none")
    ]
    assert all(answers(run) == answers(runs[0]) for run in runs)


# -- what makes it decode-first -------------------------------------------------------------------


def policy(**settings: Any) -> PolicyConfig:
    given: dict[str, Any] = {
        "batching": "decode-first",
        "overlap": "serial",
        "cache": "blocks",
        "page_size": 4,
        "chunked_prefill_size": None,
        "max_running_requests": 4,
    }
    options = {"max_num_batched_tokens": 16} | settings.pop("options", {})
    return PolicyConfig(**(given | {"batching_options": options} | settings))


def prompt(length: int, start: int = 100) -> tuple[int, ...]:
    return tuple(range(start, start + length))


def steps_of(run: BlockWorld) -> list[tuple[dict[str, int], list[str]]]:
    """Prompt tokens by request, and who decodes, for each step that has anyone."""
    return [
        ({row[0]: row[3] for row in batch[2]}, [name for name, _ in batch[3]])
        for batch in run.batches
        if batch[1] != "empty"
    ]


def run_of(clients: list[Client], capacity: int, **settings: Any) -> BlockWorld:
    run = BlockWorld(policy(**settings), capacity, clients)
    run.run().check_answers()
    return run


def test_several_prompts_are_in_chunks_at_once_and_decodes_ride_along() -> None:
    clients = [
        Client("a", prompt(4), (), 6),
        Client("b", prompt(20, 200), (), 2, arrival=1),
        Client("c", prompt(20, 300), (), 2, arrival=1),
    ]
    run = run_of(clients, 160, options={"long_prefill_token_threshold": 8})
    assert steps_of(run)[:4] == [
        ({"a": 4}, []),
        ({"b": 8, "c": 7}, ["a"]),  # 16 tokens: one decode, 8 by the threshold, what is left
        ({"b": 8, "c": 7}, ["a"]),
        ({"b": 4, "c": 6}, ["a"]),
    ]


def test_prompts_in_chunks_go_on_beside_decodes_without_going_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("went through the running requests one by one")

    monkeypatch.setattr(Grants, "grant_one_by_one", never)
    clients = [Client("a", prompt(4), (), 30), Client("b", prompt(60, 200), (), 2, arrival=3)]
    run = run_of(clients, 160)
    assert ({"b": 15}, ["a"]) in steps_of(run)


def test_blocks_go_first_to_a_prompt_that_was_admitted_before_a_decode() -> None:
    """A long prompt in chunks, and a short one behind it that decodes before the long one is done."""
    options = {"max_num_batched_tokens": 8, "long_prefill_token_threshold": 4}
    s = Scheduler(policy(options=options), 160)
    long, short = Request("a", TokenLog(prompt(30)), 2), Request("b", TokenLog(prompt(4, 200)), 6)
    s.receive(Inbox(0, [long, short]))
    first = s.next_batch()
    assert first is not None
    assert [item.length for item in first.prefill] == [4, 4]
    short.tokens.write(0, 9)  # type: ignore[attr-defined]
    s.commit(first, StepResult())
    second = s.next_batch()
    assert second is not None
    assert [item.request for item in second.prefill] == [long]
    assert second.decode_requests == 1
    assert (list(long.blocks), list(short.blocks)) == ([1, 3], [2, 4])


def test_a_lone_request_is_under_no_threshold_and_a_fair_share_may_raise_it() -> None:
    options = {"long_prefill_token_threshold": 3}
    assert steps_of(run_of([Client("a", prompt(14))], 160, options=options))[0] == ({"a": 14}, [])
    pair = [Client("a", prompt(14)), Client("b", prompt(14, 200))]
    assert steps_of(run_of(pair, 160, options=options))[0] == ({"a": 3, "b": 3}, [])
    options["long_prefill_token_threshold_adaptive"] = True
    assert steps_of(run_of(pair, 160, options=options))[0] == ({"a": 8, "b": 8}, [])


def test_without_chunks_a_prompt_waits_for_a_step_that_takes_it_whole() -> None:
    clients = [Client("a", prompt(30)), Client("b", prompt(12, 200), arrival=0)]
    run = run_of(
        clients, 40, options={"max_num_batched_tokens": 40, "enable_chunked_prefill": False}
    )
    assert steps_of(run)[0] == ({"a": 30}, [])


def test_all_of_a_prompt_must_fit_unless_that_is_switched_off() -> None:
    """28 of 40 tokens are held; of a prompt of 16, a chunk of 11 would fit."""
    clients = [Client("a", prompt(27), (), 2), Client("b", prompt(16, 200), arrival=3)]
    options = {"max_num_batched_tokens": 12}
    run = run_of(clients, 40, options=options)
    assert not any("b" in prefill and decode for prefill, decode in steps_of(run))
    run = run_of(clients, 40, options=options | {"scheduler_reserve_full_isl": False})
    assert any("b" in prefill and decode for prefill, decode in steps_of(run))


def test_the_watermark_is_kept_free_beside_those_that_run() -> None:
    clients = [Client("a", prompt(8), (), 8), Client("b", prompt(12, 200), arrival=1)]
    run = run_of(clients, 40)
    assert steps_of(run)[1] == ({"b": 12}, ["a"])
    run = run_of(clients, 40, options={"watermark": 0.5})
    assert "b" not in steps_of(run)[1][0]


def test_a_block_aligned_prompt_found_whole_computes_its_last_block_again() -> None:
    run = run_of([Client("a", prompt(12)), Client("b", prompt(12), arrival=9)], 160)
    assert run.requests["b"].cached_tokens == 8
    assert ({"b": 4}, []) in steps_of(run)


def test_preempted_requests_keep_their_outputs_and_go_ahead() -> None:
    """Two outgrow the pool together; the later one makes way and comes back before a third."""
    clients = [
        Client("a", prompt(8), (), 20),
        Client("b", prompt(8, 200), (), 20),
        Client("c", prompt(8, 300), (), 2, arrival=3),
    ]
    run = run_of(clients, 40, cache="none", max_running_requests=2)
    assert run.requests["b"].retractions == 1
    assert run.requests["a"].retractions == 0
    again = [prefill for prefill, _ in steps_of(run) if "b" in prefill][1]
    assert again["b"] > 8  # prompt and outputs together
    firsts = [next(i for i, (p, _) in enumerate(steps_of(run)) if name in p) for name in "bc"]
    assert firsts[0] < firsts[1]


@pytest.mark.parametrize(
    ("options", "capacity", "says"),
    [
        ({"max_num_batched_tokens": 0}, 160, "max_num_batched_tokens is 0; it must be at least 1"),
        ({"watermark": 1.0}, 160, "watermark is 1.0; it must be at least 0 and below 1"),
        (
            {"enable_chunked_prefill": False},
            160,
            r"max_num_batched_tokens \(16\) must be at least the context limit \(160\)",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(
    options: dict[str, Any], capacity: int, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        BlockWorld(policy(options=options), capacity, [])


def test_auto_is_for_the_world_to_resolve() -> None:
    with pytest.raises(TypeError, match="'auto'; the world must put in a number"):
        BlockWorld(policy(options={"max_num_batched_tokens": "auto"}), 160, [])
