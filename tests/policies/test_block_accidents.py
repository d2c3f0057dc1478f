"""The two accidents of vLLM's scheduler, each behind its switch: off by default, there when on."""

from __future__ import annotations

import pytest

from policies import Accidents, PolicyConfig
from tests.policies.block_world import BlockWorld
from tests.policies.world import Client

PROMPT = tuple(range(1000, 1158))
CLIENTS = (  # after vLLM's own directed case, the recording phantom2
    Client("low", PROMPT, (), 1, priority=5),
    Client("high", tuple(range(5000, 5032)), (), 4, arrival=1, priority=0),
)


def policy(*, overlap: str = "serial", **accidents: bool) -> PolicyConfig:
    return PolicyConfig(
        batching="decode-first",
        batching_options={"max_num_batched_tokens": 64, "long_prefill_token_threshold": 32},
        priority={"enabled": True, "low_values_first": True},  # type: ignore[arg-type]
        overlap=overlap,  # type: ignore[arg-type]
        page_size=16,
        cache="blocks",
        chunked_prefill_size=None,
        max_running_requests=8,
        accidents=accidents,  # type: ignore[arg-type]
    )


class Unaudited(BlockWorld):
    """For a scheduler that is known to read what was never written."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.audit = None


def resumed_at(run: BlockWorld) -> int:
    """How many tokens of the preempted request were taken from the cache when it came back."""
    assert run.requests["low"].retractions == 1
    rows = [row for batch in run.batches if batch[1] != "empty" for row in batch[2]]
    name, _, start, length, samples = rows[-1]
    assert (name, start + length, samples) == ("low", len(PROMPT), True)
    return int(start)


def test_both_are_off_unless_named() -> None:
    assert not Accidents().planned_blocks_are_hits
    assert not Accidents().context_beyond_pool


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_blocks_planned_and_never_computed_are_no_hits(overlap: str) -> None:
    """Preempted in the step that granted it tokens 96 to 127, it comes back with the 96 before them."""
    run = BlockWorld(policy(overlap=overlap), 160, CLIENTS)
    run.run().check_answers()
    assert resumed_at(run) == 96


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
def test_with_the_accident_they_are(overlap: str) -> None:
    """Of the two blocks one is reused meanwhile; the other is a hit, with whatever is in it."""
    accidental = policy(overlap=overlap, planned_blocks_are_hits=True)
    assert resumed_at(Unaudited(accidental, 160, CLIENTS).run()) == 112  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="low: the KV at 96 of 158 is another's"):
        BlockWorld(accidental, 160, CLIENTS).run()


def beyond(**accidents: bool) -> PolicyConfig:
    return policy(**accidents).model_copy(update={"context_limit": 180})


def test_a_context_limit_above_the_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="context_limit 180 is above the 160 tokens"):
        BlockWorld(beyond(), 160, [])


def test_with_the_accident_a_request_that_outgrows_the_pool_preempts_itself_for_ever() -> None:
    run = BlockWorld(beyond(context_beyond_pool=True), 160, [Client("a", PROMPT, (), 20)])
    with pytest.raises(AssertionError, match="no batch any more"):
        run.run()
    request = run.requests["a"]
    assert request.retractions == 1
    assert request.output_len == 3  # 158 + 3: the next token would need an eleventh block
    assert all(batch[1] == "empty" for batch in run.batches[-run.patience :])
