"""The roofline of experts and latent attention: hand-computed where one term decides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from policies import ModelShape
from simulator.capacity import kv_capacity_tokens
from simulator.devices import Device
from simulator.latency import RooflineLatency, RooflineOptions, StepShape

H200 = Device.load("h200")
PEAK, BANDWIDTH = 989.4e12, 4.8e12
QWEN = ModelShape.load("Qwen/Qwen3-30B-A3B")
DEEPSEEK = replace(ModelShape.load("deepseek-ai/DeepSeek-V3"), matrix_dtype="bfloat16")
SCOUT = ModelShape.load("meta-llama/Llama-4-Scout-17B-16E-Instruct")
IDEAL = RooflineOptions(
    **{field: 1 for field in RooflineOptions.model_fields if "efficiency" in field},
    decode_layer_overhead_ns=0,
    extend_layer_overhead_ns=0,
    step_overhead_ns=0,
)
SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def parts(model, prefill=(), decode=0, kv=0, sampled=0, options=IDEAL):
    shape = StepShape(prefill, decode, kv, sampled, lambda: np.zeros(0, dtype=np.int64))
    return RooflineLatency(model, H200, options=options).parts(shape)


def test_one_token_reads_the_experts_it_takes():
    expert_bytes = 3 * 2048 * 768 * 2
    read_ns = 48 * 8 * expert_bytes / BANDWIDTH * 1e9
    assert read_ns < parts(QWEN, decode=1, kv=1).experts < 1.01 * read_ns


def test_a_decode_batch_reads_the_experts_its_tokens_touch():
    touched = 128 * (1 - (1 - 8 / 128) ** 16)
    read_ns = 48 * touched * 3 * 2048 * 768 * 2 / BANDWIDTH * 1e9
    assert read_ns < parts(QWEN, decode=16, kv=16).experts < 1.01 * read_ns


def test_a_large_prefill_computes_the_experts_its_tokens_take_and_no_more():
    flops = 8192 * 48 * 8 * 2 * 3 * 2048 * 768
    assert parts(QWEN, [(8192, 0)]).experts == pytest.approx(flops / PEAK * 1e9)


def test_what_every_token_uses_is_not_among_the_experts():
    linear = parts(SCOUT, decode=1, kv=1).linear
    shared, attention = 3 * 5120 * 8192, 5120 * 128 * 2 * (40 + 8)
    read_ns = 48 * 2 * (shared + attention + 16 * 5120) / BANDWIDTH * 1e9
    assert read_ns < linear < 1.001 * read_ns


def test_a_dense_model_has_no_experts():
    assert parts(ModelShape.load("Qwen/Qwen3-8B"), [(100, 0)], 3, 30).experts == 0


def test_one_token_costs_less_than_the_dense_model_of_the_same_size():
    dense = sum(parts(ModelShape.load("Qwen/Qwen3-32B"), decode=1, kv=1))
    assert sum(parts(QWEN, decode=1, kv=1)) < dense / 5


def test_latent_decode_is_bound_by_arithmetic():
    kv = 1_000_000
    pairs_ns = kv * 61 * 2 * 128 * (512 + 64 + 512) / PEAK * 1e9
    assert parts(DEEPSEEK, decode=64, kv=kv).decode_attention == pytest.approx(pairs_ns)
    assert pairs_ns > kv * 61 * (512 + 64) * 2 / BANDWIDTH * 1e9


def test_grouped_query_decode_is_bound_by_reading():
    read_ns = 1_000_000 * QWEN.kv_bytes_per_token() / BANDWIDTH * 1e9
    assert parts(QWEN, decode=64, kv=1_000_000).decode_attention == pytest.approx(read_ns)


def test_latent_prefill_expands_its_cached_tokens_again():
    new, cached = 1000, 5000
    pairs = new * cached + new * (new + 1) / 2
    attention = pairs * 61 * 2 * 128 * (128 + 64 + 128)
    expansion = cached * 61 * 2 * 512 * 128 * (128 + 128)
    expected = (attention + expansion) / PEAK * 1e9
    assert parts(DEEPSEEK, [(new, cached)]).prefill_attention == pytest.approx(expected)


def test_decode_rows_beside_a_prefill_are_not_taken_for_cached_tokens():
    alone = parts(DEEPSEEK, [(1000, 0)]).prefill_attention
    beside = parts(DEEPSEEK, [(1000, 0)], 8, 8000).prefill_attention
    assert alone == beside


def test_weights_that_do_not_fit_one_gpu_are_an_error_that_says_so():
    with pytest.raises(
        ValueError, match=r"DeepSeek-V3 does not fit on h200: weights of 626\.8 GiB"
    ):
        kv_capacity_tokens(ModelShape.load("DeepSeek-V3"), H200)
    assert kv_capacity_tokens(QWEN, H200) > 500_000


@pytest.mark.parametrize(
    ("model", "limit"), [("Qwen/Qwen3-30B-A3B", 0.05), ("mistralai/Mixtral-8x7B-v0.1", 0.1)]
)
def test_the_experts_are_near_measured_kernels_where_they_are_read(model, limit):
    path = SHARED / "gpu/aic/h200_sxm/moe/sglang/0.5.14/moe_perf.parquet"
    if not path.is_file():
        pytest.skip(f"needs {path.name}")
    shape = ModelShape.load(model)
    table = pd.read_parquet(path).query(
        "moe_tp_size == 1 and moe_ep_size == 1 and moe_dtype == 'bfloat16' and "
        "distribution == 'balanced' and 48 <= num_tokens <= 256"
    )
    table = table[
        (table.hidden_size == shape.hidden_size)
        & (table.inter_size == shape.moe.inner_size)
        & (table.num_experts == shape.moe.experts)
        & (table.topk == shape.moe.experts_per_token)
    ]
    assert len(table) > 5
    measured = table.latency.to_numpy() * shape.layers
    predicted = [
        parts(shape, decode=n, kv=n, options=None).experts * 1e-6 for n in table.num_tokens
    ]
    assert np.abs(np.array(predicted) / measured - 1).mean() < limit
