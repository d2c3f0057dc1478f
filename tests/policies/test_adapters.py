"""No batch holds more LoRA adapters than there are slots; who would exceed them is passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies import Batch, PolicyConfig
from tests.policies.drive import ask, drive, policy

if TYPE_CHECKING:
    from collections.abc import Iterable

BATCHINGS = ("prefill-first", "mixed", "static", "decode-first")


def takes_slot(batching: str, adapter: str | None) -> bool:
    """The base model takes a slot in SGLang's way, none in vLLM's."""
    return adapter is not None or batching != "decode-first"


def adapters_in(batch: Batch, batching: str) -> set[str | None]:
    requests = [item.request for item in batch.prefill]
    requests += batch.decode.requests if batch.decode else ()
    return {r.lora_id for r in requests if takes_slot(batching, r.lora_id)}


def first_runs(batching: str, limit: int | None, adapters: Iterable[str | None]) -> list[int]:
    """The round in which each of these requests, which all wait at first, is first in a batch."""
    arrivals = [(0, ask(f"{i}", 6, 5, seed=i, lora_id=a)) for i, a in enumerate(adapters)]
    runs: dict[str, int] = {}
    for _, seen in drive(policy(batching, max_loras_per_batch=limit), 1000, arrivals):
        if isinstance(seen, Batch):
            for item in seen.prefill:
                runs.setdefault(item.request.id, seen.iteration)
    return [runs[request.id] for _, request in arrivals]


@pytest.mark.parametrize("batching", BATCHINGS)
@given(data=st.data())
def test_never_more_than_the_limit_and_everyone_ends(batching, data):
    limit = data.draw(st.integers(1, 3))
    overlap = data.draw(st.sampled_from(("serial", "overlapped")))
    rows = data.draw(st.lists(st.tuples(
        st.integers(0, 9), st.integers(1, 40), st.integers(1, 12),
        st.sampled_from((None, "a", "b", "c", "d")),
    ), min_size=1, max_size=14))  # fmt: skip
    arrivals = [
        (at, ask(f"{i}", prompt, output, seed=prompt, lora_id=adapter))
        for i, (at, prompt, output, adapter) in enumerate(rows)
    ]
    ratio = {} if batching == "decode-first" else {"new_token_ratio": {"conservativeness": 0.05}}
    config = policy(batching, overlap=overlap, max_loras_per_batch=limit, **ratio)
    ended = set()
    for s, seen in drive(config, 96, arrivals):
        s.check_integrity()
        if isinstance(seen, Batch):
            assert len(adapters_in(seen, batching)) <= limit
        else:
            ended |= {request.id for request in seen.ended}
    assert ended == {request.id for _, request in arrivals}


@pytest.mark.parametrize("batching", BATCHINGS)
def test_who_would_exceed_the_limit_is_overtaken(batching):
    a, b, c, late = first_runs(batching, 2, ["a", "b", "c", "a"])
    assert a == b == late < c


@pytest.mark.parametrize("batching", BATCHINGS)
def test_without_a_limit_nobody_is(batching):
    assert len(set(first_runs(batching, None, ["a", "b", "c", "a"]))) == 1


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_running_adapter_keeps_its_slot(batching):
    arrivals = [
        (0, ask("first", 6, 20, lora_id="a")),
        (3, ask("other", 6, 2, seed=5, lora_id="b")),
        (3, ask("same", 6, 2, seed=7, lora_id="a")),
    ]
    ends = []
    for _, seen in drive(policy(batching, max_loras_per_batch=1), 1000, arrivals):
        ends += () if isinstance(seen, Batch) else [request.id for request in seen.ended]
    closed = batching == "static"  # where nobody joins a batch that decodes
    assert ends == (["first", "other", "same"] if closed else ["same", "first", "other"])


@pytest.mark.parametrize("batching", BATCHINGS)
def test_the_base_model_takes_a_slot_as_in_sglang_or_none_as_in_vllm(batching):
    base, adapter = first_runs(batching, 1, [None, "a"])
    assert (base < adapter) == (batching != "decode-first")
    adapter, base = first_runs(batching, 1, ["a", None])
    assert (adapter < base) == (batching != "decode-first")


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("fields", [{}, {"extra_key": "x"}])
def test_adapters_share_no_prefix(batching, fields):
    arrivals = [
        (40 * i, ask(f"{i}", 33, 3, seed=1, lora_id=adapter, **fields))
        for i, adapter in enumerate((None, "a", "b", "a", None))
    ]
    for _ in drive(policy(batching), 1000, arrivals):
        pass
    cached = [request.cached_tokens for _, request in arrivals]
    assert cached[:3] == [0, 0, 0]
    assert cached[3] == cached[4] >= 32


def test_no_slot_at_all_is_an_error():
    with pytest.raises(ValidationError, match="max_loras_per_batch"):
        PolicyConfig(max_loras_per_batch=0)
