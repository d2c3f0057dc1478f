"""Nothing waits for ever: prompts that nearly fill the pool, chunks that memory runs out for."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from policies import FinishReason, PolicyConfig
from tests.policies.world import EOS, Client, World

CHUNK_AND_DECODE = list(
    itertools.product(
        ("prefill-first", "mixed", "static"), ("serial", "overlapped"), (0, 3), (3, 4), (1, 3)
    )
)


def policy(**settings: Any) -> PolicyConfig:
    given: dict[str, Any] = {"max_running_requests": 4, "chunked_prefill_size": None}
    return PolicyConfig(**(given | settings))


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("chunk", [None, 16, 24])
@pytest.mark.parametrize("cache", ["radix", "none"])
@pytest.mark.parametrize("batching", ["prefill-first", "mixed", "static"])
def test_a_prompt_that_nearly_fills_the_pool_runs_or_is_refused(
    page_size: int, chunk: int | None, cache: str, batching: str
) -> None:
    capacity = 64
    settings = policy(
        page_size=page_size, chunked_prefill_size=chunk, cache=cache, batching=batching
    )
    for overlap, ignore_eos, asked in itertools.product(
        ("serial", "overlapped"), (False, True), (1, 2, 5, 1000)
    ):
        lengths = range(capacity - 2 * page_size - 3, capacity + 2)
        clients = [  # one after the other, and one that shares most of its prefix
            Client(f"{n}{kind}", (*tuple(range(n - 1)), tail), (), asked, ignore_eos=ignore_eos)
            for n in lengths
            for kind, tail in (("first", 77), ("again", 78))
        ]
        run = World(
            PolicyConfig.model_validate(settings.model_dump() | {"overlap": overlap}),
            capacity,
            clients,
        )
        run.run().check_answers()
        for client in clients:
            refused = run.outcomes[client.id].ended is FinishReason.REFUSED
            assert refused == (len(client.prompt) >= capacity - page_size)
            if refused:
                assert str(len(client.prompt)) in str(run.requests[client.id].refusal)
                assert str(capacity) in str(run.requests[client.id].refusal)


def test_a_request_that_ignores_eos_may_ask_for_all_that_is_left() -> None:
    """SGLang's walk through the endings wants a token more than the intake's cut leaves."""
    run = World(policy(cache="none"), 9, [Client("a", (6,), (), 1000, ignore_eos=True)])
    run.run().check_answers()
    assert run.requests["a"].max_new_tokens == 9 - 1 - 1 - 1
    assert run.outcomes["a"].accepted == 6


@pytest.mark.parametrize(("batching", "overlap", "interval", "chunk", "gap"), CHUNK_AND_DECODE)
def test_a_chunk_and_a_growing_output_never_run_out_of_memory(
    batching: str, overlap: str, interval: int, chunk: int, gap: int
) -> None:
    """What decoding takes between two chunks was reserved only in part."""
    settings = policy(
        batching=batching,
        overlap=overlap,
        prefill_decode_interval=interval,
        chunked_prefill_size=chunk,
        new_token_ratio={"conservativeness": 0.05},
    )
    for capacity, first, second in itertools.product((24, 30), (12, 16), (12, 16, 20)):
        clients = [
            Client("a", (10, 11), (), first),
            Client("b", tuple(range(50, 50 + second)), (), 1, gap),
        ]
        World(settings, capacity, clients).run().check_answers()


def test_two_prompts_are_never_chunked_at_once() -> None:
    """Pages leave a rest of the chunk budget that a request without a cache could be cut to."""
    clients = [
        Client("a", tuple(range(18)), (5, 4), 2),
        Client("b", tuple(range(9)), (), 1, ignore_eos=True),
    ]
    settings = policy(page_size=16, cache="none", chunked_prefill_size=24)
    World(settings, 80, clients).run().check_answers()


def test_a_static_batch_waits_for_its_chunk() -> None:
    clients = [Client(f"r{i}", (6, 6), (5,), 1 + (i == 3)) for i in range(5)]
    settings = policy(
        batching="static", chunked_prefill_size=5, prefill_decode_interval=1, max_running_requests=5
    )
    World(settings, 30, clients).run().check_answers()


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_an_end_is_reported_before_the_loop_sleeps(overlap: str) -> None:
    """A chunk that is aborted ends in planning, when nothing else may be left to do."""
    settings = policy(chunked_prefill_size=2, overlap=overlap)
    run = World(settings, 20, [Client("a", (6, 6, 4), (5,), 1)], {1: ["a"]})
    for _ in run.rounds():
        pass
    assert run.outcomes["a"].ended is FinishReason.ABORT


def test_retracted_requests_start_over_and_get_the_same_tokens() -> None:
    clients = [Client(f"r{i}", (10 + i, 20 + i), (3, 4, 5) * 9, 25, i) for i in range(4)]
    settings = policy(new_token_ratio={"conservativeness": 0.05, "retract_decode_steps": 0})
    run = World(settings, 40, clients).run()
    run.check_answers()
    assert sum(request.retractions for request in run.requests.values()) > 0


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_an_eos_frees_its_memory(overlap: str) -> None:
    clients = [Client(f"r{i}", (i, 5), (3, EOS), 50) for i in range(6)]
    run = World(policy(overlap=overlap), 60, clients).run()
    run.check_answers()
    assert {o.ended for o in run.outcomes.values()} == {FinishReason.STOP}
