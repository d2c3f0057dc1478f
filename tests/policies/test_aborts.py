"""What an abort does to a request, wherever it is: spec section 2.1 of SGLang 0.5.23's behaviour."""

from __future__ import annotations

from typing import Any

import pytest

from policies import Events, FinishReason, Inbox, PolicyConfig, Request, Scheduler, State, TokenLog
from tests.policies.world import Client, World

LOOPS = ("serial", "overlapped")


def policy(overlap: str, **settings: Any) -> PolicyConfig:
    given: dict[str, Any] = {"max_running_requests": 4, "chunked_prefill_size": None}
    return PolicyConfig(overlap=overlap, **(given | settings))


def ends(events: Events) -> list[tuple[str, FinishReason | None]]:
    return [(request.id, request.finish_reason) for request in events.ended]


@pytest.mark.parametrize("overlap", LOOPS)
def test_a_waiting_request_ends_at_once(overlap: str) -> None:
    s = Scheduler(policy(overlap), 100)
    a, b = Request("a", TokenLog([5]), 3), Request("b", TokenLog([6]), 3)
    events = s.receive(Inbox(0, [a, b], ["a"]))
    assert ends(events) == [("a", FinishReason.ABORT)]
    assert s.waiting == [b]
    assert a.row is None


def test_aborts_are_handled_after_the_arrivals_they_come_with() -> None:
    s = Scheduler(policy("serial"), 100)
    assert ends(s.receive(Inbox(0, [Request("a", TokenLog([5]), 3)], ["a"])))
    assert s.is_idle()


@pytest.mark.parametrize("overlap", LOOPS)
def test_unknown_and_ended_ids_do_nothing(overlap: str) -> None:
    clients = [Client("a", (5, 6), (), 3), Client("b", (5, 7), (), 9)]
    aborts = {step: ["nobody", "a"] for step in range(8, 12)}
    run = World(policy(overlap), 100, clients, aborts).run()
    assert run.outcomes["a"].ended is FinishReason.LENGTH
    assert run.outcomes["b"].ended is FinishReason.LENGTH


@pytest.mark.parametrize(("overlap", "tokens"), [("serial", 4), ("overlapped", 3)])
def test_a_running_request_ends_with_its_next_result(overlap: str, tokens: int) -> None:
    """Serial: it decodes once more. Overlapped: the result in flight ends it, the next is dropped."""
    run = World(policy(overlap), 100, [Client("a", (5, 6, 7, 8), (), 50)], {3: ["a"]})
    run.run()
    assert run.outcomes["a"].ended is FinishReason.ABORT
    assert run.outcomes["a"].accepted == tokens
    assert run.batches[-1][0] == 3, "the last step is the one launched in the abort's round"
    assert run.s.memory.evictable == 4 + 3, "what it computed can be found again"


def test_an_abort_before_the_first_token_is_seen_after_it() -> None:
    """Overlapped: in round 1 the prefill of round 0 is in flight."""
    run = World(policy("overlapped"), 100, [Client("a", (5, 6), (), 50)], {1: ["a"]}).run()
    assert run.outcomes["a"].accepted == 1
    assert run.outcomes["a"].ended is FinishReason.ABORT


@pytest.mark.parametrize("overlap", LOOPS)
def test_a_chunk_ends_at_the_next_planning_and_is_not_entered_again(overlap: str) -> None:
    clients = [Client("a", tuple(range(10, 30)), (), 5)]
    run = World(policy(overlap, chunked_prefill_size=4), 100, clients, {2: ["a"]})
    for _ in run.rounds():
        if run.step == 1:
            assert run.s.chunked is run.requests["a"]
        if run.step == 2:
            assert run.s.chunked is None
            assert run.requests["a"].state is State.FINISHED
    assert run.outcomes["a"].ended is FinishReason.ABORT
    assert run.outcomes["a"].accepted == 0
    assert len(run.batches) == 2
    assert run.s.memory.evictable == 4, "what an earlier checkpoint entered stays"


@pytest.mark.parametrize("overlap", LOOPS)
def test_a_retracted_request_waits_and_ends_at_once(overlap: str) -> None:
    clients = [Client(f"r{i}", (10 + i, 20 + i), (), 25, i) for i in range(4)]
    ratio = {"conservativeness": 0.05, "retract_decode_steps": 0}
    settings = policy(overlap, new_token_ratio=ratio)
    first = World(settings, 40, clients)
    step, victim = next(
        (first.step, first.s.retracted[0].id) for _ in first.rounds() if first.s.retracted
    )
    run = World(settings, 40, clients, {step + 1: [victim]})
    for _ in run.rounds():
        if run.step == step + 1:
            assert run.outcomes[victim].ended is FinishReason.ABORT
    assert run.requests[victim].retractions == 1


def test_with_the_accident_an_abort_ends_all_whose_id_begins_so() -> None:
    requests = [Request(name, TokenLog([5]), 3) for name in ("chat-1", "chat-12", "other")]
    s = Scheduler(policy("serial", accidents={"abort_by_prefix": True}), 100)
    assert [r.id for r in s.receive(Inbox(0, requests, ["chat-1"])).ended] == ["chat-1", "chat-12"]


def test_an_abort_ends_one() -> None:
    requests = [Request(name, TokenLog([5]), 3) for name in ("chat-1", "chat-12", "other")]
    s = Scheduler(policy("serial", accidents="none"), 100)
    assert [r.id for r in s.receive(Inbox(0, requests, ["chat-1"])).ended] == ["chat-1"]
