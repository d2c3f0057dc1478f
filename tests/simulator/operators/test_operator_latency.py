"""A step put together from operators: consistent, monotone, and honest about its range."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.model_shape import ModelShape
from simulator.latency.base import LatencyModel, StepShape
from simulator.latency.operators import OperatorLatency
from simulator.operators import OperatorProfile, Parallel, Tables, condense
from simulator.operators.shards import head, products
from simulator.operators.tables import TableError

AIC = Path(__file__).resolve().parents[3].parent / "shared" / "gpu" / "aic"
needs_tables = pytest.mark.skipif(not AIC.is_dir(), reason="no operator tables here")
pytestmark = needs_tables


@cache
def profile(model: str = "Qwen/Qwen3-8B", tp: int = 1, ep: int = 1, pp: int = 1) -> OperatorProfile:
    parallel = Parallel(tp=tp, ep=ep, pp=pp)
    return condense(Tables.open("h200", "sglang", root=AIC), ModelShape.load(model), parallel)


def decode(requests: int, kv_tokens: int) -> StepShape:
    lens = np.full(requests, kv_tokens // max(requests, 1), np.int64)
    return StepShape((), requests, kv_tokens, requests, lambda: lens)


@given(
    requests=st.integers(1, 3000),
    mean=st.integers(1, 200_000),
    steps=st.integers(1, 40),
)
def test_steps_at_once_are_steps_one_by_one(requests: int, mean: int, steps: int) -> None:
    at_once, one_by_one = OperatorLatency(profile()), OperatorLatency(profile())
    lens = np.full(requests, mean - 1, np.int64)
    given_ns = at_once.decode_steps_ns(requests, requests * mean, steps, lambda: lens)
    assert not at_once.beyond, "looking ahead is not going through"
    at_once.took(requests, requests * mean, steps)
    walked = LatencyModel.decode_steps_ns(
        one_by_one, requests, requests * mean, steps, lambda: lens
    )
    assert given_ns.tolist() == walked.tolist()
    assert at_once.beyond == one_by_one.beyond
    assert at_once.flags() == one_by_one.flags()


@given(requests=st.integers(0, 300), kv=st.integers(1, 5000), more=st.integers(1, 500))
def test_more_kv_or_prompt_never_takes_less_time(requests: int, kv: int, more: int) -> None:
    latency = OperatorLatency(profile())
    if requests:
        assert latency.step_ns(decode(requests, requests * kv)) <= latency.step_ns(
            decode(requests, requests * (kv + more))
        )
    lens = np.full(max(requests, 1), kv, np.int64)

    def extend(new: int, cached: int) -> int:
        shape = StepShape([(new, cached)], requests, requests * kv, requests + 1, lambda: lens)
        return latency.step_ns(shape)

    assert extend(kv, 0) <= extend(kv + more, 0) <= extend(kv + more, more)


def test_no_rows_take_no_time() -> None:
    assert OperatorLatency(profile()).step_ns(decode(0, 0)) == 0


def test_parts_sum_up_to_the_step() -> None:
    latency = OperatorLatency(profile())
    shape = StepShape([(700, 100), (30, 0)], 20, 20_000, 22, lambda: np.full(20, 1000))
    assert sum(latency.parts(shape).values()) == pytest.approx(latency.step_ns(shape), rel=1e-6)


def test_questions_beyond_the_measured_range_are_counted_by_operator() -> None:
    latency = OperatorLatency(profile())
    latency.step_ns(decode(8, 8000))
    assert not latency.beyond
    latency.step_ns(StepShape([(60_000, 0)], 0, 0, 1, lambda: np.empty(0, np.int64)))
    assert latency.beyond["prefill_attention"] == 1
    assert latency.beyond["qkv"] == 1
    assert "lm_head: product with n 151936 (measured 32 to 65536): extrapolated" in (
        latency.approximations
    )


def test_equal_prompts_take_what_the_table_says_and_one_more_never_less() -> None:
    attention = profile().attention
    assert attention.kind == "uniform"
    table = attention.prefill
    for rows, length in ((2, 512), (8, 1024), (16, 128)):
        ns = table.cut(rows).at(length)
        assert attention.prefill_ns([(length, 0)] * rows) == pytest.approx(ns)
    assert attention.prefill_ns([(4096, 0), (64, 0)]) < 1.1 * attention.prefill_ns([(4096, 0)])


def test_tensor_parallelism_splits_and_adds_up() -> None:
    one, four = (OperatorLatency(profile("Qwen/Qwen3-32B", tp)) for tp in (1, 4))
    shape = decode(16, 16_000)
    assert one.step_ns(shape) / 4 < four.step_ns(shape) < one.step_ns(shape) / 2
    assert four.parts(shape)["all_reduce"] > 0
    assert "all_reduce" not in one.parts(shape)


def test_a_pipeline_is_as_long_as_all_its_stages() -> None:
    one, two = (OperatorLatency(profile(pp=pp)) for pp in (1, 2))
    shape = decode(16, 16_000)
    assert (
        0
        < two.step_ns(shape) - one.step_ns(shape)
        == pytest.approx(two.parts(shape)["send"], abs=1)
    )


def test_experts_of_two_ranks_see_the_tokens_of_both() -> None:
    moe = profile("Qwen/Qwen3-30B-A3B", 1, 2)
    shape = decode(64, 64_000)
    experts = next(o for o in moe.operators if o.name == "experts")
    part = OperatorLatency(moe).parts(shape)["experts"]
    assert part == pytest.approx(experts.count * experts.curve.at(128))
    latency = OperatorLatency(moe)
    assert latency.rank_step_ns(shape, 128) == latency.step_ns(shape)
    assert latency.rank_step_ns(decode(0, 0), 128) > experts.count * experts.curve.at(128)
    assert latency.rank_step_ns(decode(0, 0), 0) == 0


def test_products_are_all_of_the_models_matrices() -> None:
    model = ModelShape.load("Qwen/Qwen3-32B")
    for tp in (1, 2, 4, 8):
        found = sum(p.n * p.k * p.count for p in products(model, Parallel(tp=tp)))
        assert found * tp == model.dense_parameters
    assert head(model, 8).n * 8 == model.vocab_size


def test_a_profile_is_small_and_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile().save(path)
    assert path.stat().st_size < 10_000
    again = OperatorProfile.load(path)
    assert again == profile()
    shape = decode(33, 77_777)
    assert OperatorLatency(again).step_ns(shape) == OperatorLatency(profile()).step_ns(shape)


def test_what_is_no_profile_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"format": 2}')
    with pytest.raises(ValueError, match=r"x\.json: not an operator profile"):
        OperatorProfile.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_dtype": "int3"}, r"no products in 'int3'; there are: bfloat16, fp8, fp8_block"),
        ({"kv_dtype": "int8"}, r"KV in 'int8'; there are: .*128 with bfloat16"),
        ({"routing": "zipf"}, r"no experts in bfloat16 zipf; there are: bfloat16 balanced"),
    ],
)
def test_what_the_tables_lack_is_named(options: dict[str, str], message: str) -> None:
    tables = Tables.open("h200", "sglang", root=AIC)
    with pytest.raises(TableError, match=message):
        condense(tables, ModelShape.load("Qwen/Qwen3-30B-A3B"), **options)  # type: ignore[arg-type]


def test_latent_attention_is_refused() -> None:
    tables = Tables.open("h200", "sglang", root=AIC)
    with pytest.raises(ValueError, match="latent attention is not composed from tables"):
        condense(tables, ModelShape.load("deepseek-ai/DeepSeek-V3"), Parallel(tp=8))
