"""What comes in, and how much: the intake, the queue's limit, the budget's numbers, the intervals."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    Accidents,
    CountingPool,
    FinishReason,
    Inbox,
    PolicyConfig,
    Request,
    Scheduler,
    TokenLog,
)
from policies.admission.new_token_ratio import NewTokenRatio
from policies.admission.token_budget import TokenBudget, Verdict
from policies.cache.none import NoCache
from policies.kv.memory import KVMemory
from policies.running import RunningBatch
from tests.policies.world import Client, World


def policy(**settings: Any) -> PolicyConfig:
    given_: dict[str, Any] = {"max_running_requests": 4, "chunked_prefill_size": None}
    return PolicyConfig(**(given_ | settings))


def arrive(settings: PolicyConfig, capacity: int, *requests: Request) -> Scheduler:
    s = Scheduler(settings, capacity)
    s.receive(Inbox(0, requests))
    return s


def request(name: str, prompt: int, most: int = 5, **fields: Any) -> Request:
    return Request(name, TokenLog([7] * prompt), most, **fields)


# -- the intake ---------------------------------------------------------------------------------


@given(
    page_size=st.sampled_from((1, 4, 16)),
    pages=st.integers(3, 40),
    context=st.none() | st.integers(2, 700),
    prompt=st.integers(1, 700),
    asked=st.integers(0, 800),
)
def test_max_new_tokens_is_cut_to_what_can_fit(
    page_size: int, pages: int, context: int | None, prompt: int, asked: int
) -> None:
    """The two formulas of SGLang's intake, and what it would let in to wait for ever."""
    pool = pages * page_size
    one = request("a", prompt, asked)
    arrive(policy(page_size=page_size, context_limit=context), pool, one)
    limit = min(context or pool, pool)
    max_req_len = limit - 1
    cut = max(0, min(asked, max_req_len - prompt - 1))
    cut = max(0, min(cut, pool - -(-prompt // page_size) * page_size - page_size - 1))
    never = prompt >= limit or prompt + page_size >= pool
    assert (one.finish_reason is FinishReason.REFUSED) == never
    assert one.requested_max_new_tokens == asked
    if not never:
        assert one.max_new_tokens == cut


@pytest.mark.parametrize(
    ("settings", "prompt", "reason"),
    [
        ({}, 0, "the prompt is empty"),
        ({}, 64, "has 64 tokens; .*64 takes prompts of at most 63"),
        ({"context_limit": 10}, 10, "has 10 tokens; the context limit of 10 takes .* at most 9"),
        ({"page_size": 16}, 50, "has 50 tokens and needs 66 with its reserve; the KV pool of 64"),
    ],
)
def test_a_refusal_says_why(settings: dict[str, Any], prompt: int, reason: str) -> None:
    one = request("a", prompt)
    s = Scheduler(policy(**settings), 64)
    assert s.receive(Inbox(0, [one])).ended == (one,)
    assert one.finish_reason is FinishReason.REFUSED
    assert one.refusal is not None
    assert re.search(reason, one.refusal), one.refusal
    assert s.is_idle()


# -- the queue's limit --------------------------------------------------------------------------


def test_a_full_queue_refuses_the_newcomer() -> None:
    one, two, three = (request(name, 3) for name in "abc")
    s = arrive(policy(max_queued_requests=2), 64, one, two, three)
    assert s.waiting == [one, two]
    assert three.refusal == "the queue is full: 2 requests wait (max_queued_requests)"


def test_running_requests_do_not_count() -> None:
    clients = [Client(f"r{i}", (5, 6), (), 9, i) for i in range(4)]
    run = World(policy(max_queued_requests=1), 64, clients).run()
    assert {o.ended for o in run.outcomes.values()} == {FinishReason.LENGTH}


@pytest.mark.parametrize(
    ("low_first", "newcomer", "displaced"),
    [
        (False, 2, "c"),  # of the two worst, the later
        (False, 1, None),  # equal is not better
        (False, None, None),
        (True, 5, None),
        (True, 2, "a"),
    ],
)
def test_a_better_class_displaces_the_worst_that_waits(
    low_first: bool, newcomer: int | None, displaced: str | None
) -> None:
    priority = {"enabled": True, "low_values_first": low_first}
    waiting = [request("a", 3, priority=5), request("b", 3, priority=1)]
    waiting += [request("c", 3, priority=1)]
    new = request("new", 3, priority=newcomer)
    settings = policy(max_queued_requests=3, priority=priority)
    s = arrive(settings, 64, *waiting, new)
    refused = [r.id for r in (*waiting, new) if r.finish_reason is FinishReason.REFUSED]
    assert refused == [displaced or "new"]
    assert len(s.waiting) == 3


# -- the new-token ratio ------------------------------------------------------------------------


def test_the_ratio_begins_at_seven_tenths_and_falls_to_its_floor_in_600_steps() -> None:
    ratio = NewTokenRatio()
    assert ratio.value == ratio.initial == 0.7
    ratio.decay()
    assert ratio.value == pytest.approx(0.7 - (0.7 - 0.7 * 0.14) / 600)
    for _ in range(598):
        ratio.decay()
    assert ratio.value > ratio.minimum
    for _ in range(5):
        ratio.decay()
    assert ratio.value == ratio.minimum == 0.7 * 0.14
    ratio.reset()
    assert ratio.value == 0.7


def test_conservativeness_scales_it_up_to_one() -> None:
    assert NewTokenRatio(conservativeness=1.3).initial == pytest.approx(0.91)
    assert NewTokenRatio(conservativeness=2).initial == 1.0
    assert NewTokenRatio(conservativeness=2).minimum == 0.14


def test_after_a_retraction_it_is_what_the_kept_have_produced() -> None:
    kept = [request("a", 3, 100), request("b", 3, 60)]
    kept[0]._output_len, kept[1]._output_len = 10, 30
    ratio = NewTokenRatio(retract_decode_steps=20)
    ratio.after_retraction(kept)
    assert ratio.value == (10 + 30 + 20 * 2) / (100 + 60 + 1)
    kept[0]._output_len, kept[1]._output_len = 99, 59
    ratio.after_retraction(kept)
    assert ratio.value == 1.0


def test_the_ratio_falls_in_decode_steps_only() -> None:
    clients = [Client("a", (5, 6), (), 12), Client("b", tuple(range(30)), (), 5, 3)]
    run = World(policy(batching="mixed", chunked_prefill_size=8), 100, clients)
    before, launched = run.s.ratio.value, 0
    seen = set()
    for _ in run.rounds():
        if len(run.batches) > launched:
            launched = len(run.batches)
            _, mode, _, _, gauges = run.batches[-1]
            assert (gauges.new_token_ratio < before) == (mode == "decode")
            before = gauges.new_token_ratio
            seen.add(mode)
    assert seen == {"extend", "mixed", "decode"}


# -- prefill limits -----------------------------------------------------------------------------


def modes(run: World) -> str:
    return "".join(mode[0] for _, mode, *_ in run.batches)


@pytest.mark.parametrize(
    ("interval", "least", "expected"),
    [
        (0, 0, "eeeddd"),
        (2, 0, "eddedddd"),
        (2, 2, "eedded"),  # with one request running the interval is over
    ],
)
def test_decode_steps_between_prefills(interval: int, least: int, expected: str) -> None:
    clients = [Client(f"r{i}", (10 + i, 5), (), 50, i) for i in range(3)]
    settings = policy(
        overlap="serial",
        prefill_decode_interval=interval,
        prefill_decode_interval_min_batch=least,
    )
    run = World(settings, 1000, clients)
    for _ in run.rounds():
        if len(run.batches) == len(expected):
            break
    assert modes(run) == expected


def test_a_step_admits_no_more_requests_than_it_may() -> None:
    clients = [Client(f"r{i}", (10 + i, 5), (), 5) for i in range(5)]
    run = World(policy(prefill_max_requests=2, max_running_requests=8), 500, clients).run()
    assert [len(prefill) for _, mode, prefill, *_ in run.batches if mode == "extend"] == [2, 2, 1]


def test_no_more_requests_run_than_may() -> None:
    clients = [Client(f"r{i}", (10 + i, 5), (), 5) for i in range(9)]
    run = World(policy(max_running_requests=3), 500, clients).run()
    assert max(len(decode) for *_, decode, _ in run.batches) == 3


def test_a_prompt_is_cut_into_chunks_of_the_budget() -> None:
    clients = [Client("a", tuple(range(20)), (), 5)]
    run = World(policy(chunked_prefill_size=8), 100, clients).run()
    chunks = [i[2:] for _, _, prefill, *_ in run.batches for i in prefill]
    assert chunks == [(0, 8, False), (8, 8, False), (16, 4, True)]


def test_without_chunking_the_first_prompt_may_exceed_the_budget() -> None:
    clients = [Client("a", tuple(range(20)), (), 5), Client("b", (50, 51), (), 5)]
    run = World(policy(max_prefill_tokens=8), 100, clients).run()
    prefills = [[i[0] for i in prefill] for _, mode, prefill, *_ in run.batches if prefill]
    assert prefills == [["a"], ["b"]]


@given(
    spare=st.integers(0, 400),
    ratio=st.sampled_from((0.098, 0.3, 0.7, 1.0)),
    asked=st.lists(st.integers(1, 60), min_size=1, max_size=6),
)
def test_a_budget_that_need_not_add_up_what_runs_says_the_same(
    spare: int, ratio: float, asked: list[int]
) -> None:
    """Where memory is plenty, the tokens that running requests may still produce are not added up."""
    running = RunningBatch(1)
    for i, most in enumerate(asked):
        one = request(f"r{i}", 5, most)
        one._kv_len = 5
        running.join([one])
    members = list(running)
    verdicts = []
    for given_ in (running, members):
        memory = KVMemory(CountingPool(sum(asked) + spare, 1, 8), NoCache())
        limits: dict[str, Any] = {"max_prefill_tokens": 1000, "chunk": None}
        room = TokenBudget(memory, given_, ratio, accidents=Accidents(), **limits)
        seen = [room.verdict()]
        for name in ("a", "b", "c"):
            one = request(name, 20, 30)
            seen.append(room.add(one, memory.match(one)))
        verdicts.append(([*seen, room.verdict()], room.left_total, len(room.admitted)))
    assert verdicts[0] == verdicts[1]


# -- accidents ----------------------------------------------------------------------------------


def budget(accidents: Accidents, capacity: int, *running: Request) -> TokenBudget:
    memory = KVMemory(CountingPool(capacity, 1, 8), NoCache())
    memory.pool.extend(1, 0, sum(r.kv_len for r in running))
    return TokenBudget(
        memory, running, 1.0, max_prefill_tokens=1000, chunk=None, accidents=accidents
    )


@pytest.mark.parametrize(
    ("accidents", "next_one"),
    [(Accidents(), Verdict.NO_TOKEN), (Accidents.none(), Verdict.CONTINUE)],
)
def test_charge_forgets_outputs(accidents: Accidents, next_one: Verdict) -> None:
    """A retracted request with 30 of its 40 outputs made needs 10 more, and is charged 40."""
    retracted = request("a", 10, 40)
    retracted._output_len = 30
    room = budget(accidents, 80)
    assert room.add(retracted, room.memory.match(retracted)) is next_one
    assert room.admitted == [retracted]
    assert room.left_total == 80 - 40 - 1 - (40 if accidents.charge_forgets_outputs else 10)


def test_unsorted_last_reserve() -> None:
    """The third candidate outlasts the others, and is listed before the last of them."""

    def listed(accidents: Accidents) -> list[float]:
        room = budget(accidents, 1000)
        for name, most in (("a", 10), ("b", 20), ("c", 30)):
            one = request(name, 5, most, ignore_eos=True)
            assert room.add(one, room.memory.match(one)) is Verdict.CONTINUE
        assert room._endings is not None
        return [left for left, _ in room._endings]

    assert listed(Accidents.none()) == [10, 20, 30]
    assert listed(Accidents()) != [10, 20, 30]


def test_unsorted_last_reserve_changes_who_is_admitted() -> None:
    def admitted(accidents: Accidents) -> list[set[str]]:
        chosen = []
        for capacity in range(20, 120):
            room = budget(accidents, capacity)
            for name, prompt, most in (("a", 2, 3), ("b", 30, 6), ("c", 2, 20), ("d", 2, 22)):
                one = request(name, prompt, most, ignore_eos=True)
                if room.add(one, room.memory.match(one)) is not Verdict.CONTINUE:
                    break
            chosen.append({r.id for r in room.admitted})
        return chosen

    assert admitted(Accidents()) != admitted(Accidents.none())


@pytest.mark.parametrize("counted", [True, False])
def test_hrrn_counts_decode(counted: bool) -> None:
    """The prefill of 4 tokens is counted once, or again in each of the 5 decode steps after it."""
    settings = policy(overlap="serial", order="hrrn", accidents={"hrrn_counts_decode": counted})
    run = World(settings, 100, [Client("a", (5, 6, 7, 8), (), 6)]).run()
    assert run.s.processed_tokens == (4 * 6 if counted else 4)


def test_preempt_by_stale_prefix() -> None:
    """A request not matched before is taken to need its cached prefix too, so more are preempted."""
    prefix = tuple(range(100, 130))
    clients = [
        Client("seed", prefix, (), 1, priority=0),
        Client("low1", (5, 6), (), 20, 2, priority=0),
        Client("low2", (7, 8), (), 20, 2, priority=0),
        Client("high", (*prefix, 5), (), 20, 4, priority=50),
    ]

    def preempted(capacity: int, *, stale: bool) -> int:
        settings = policy(
            max_running_requests=2,
            priority={"enabled": True},
            accidents={"preempt_by_stale_prefix": stale},
        )
        run = World(settings, capacity, clients)
        most = 0
        for _ in run.rounds():
            most = max(most, len(run.s.preempted))
        run.check_answers()
        return most

    counts = [(preempted(n, stale=True), preempted(n, stale=False)) for n in range(58, 80)]
    assert all(fresh == 1 for _, fresh in counts)
    assert {stale for stale, _ in counts} == {1, 2}
