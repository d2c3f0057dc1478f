"""The roofline: hand-computed where one term decides, monotone everywhere, near measured steps."""

import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.model_shape import ModelShape
from simulator.devices import Device
from simulator.latency import RooflineLatency, RooflineOptions, StepShape

QWEN = ModelShape.load("Qwen/Qwen3-8B")
H200 = Device.load("h200")
IDEAL = RooflineOptions(
    gemm_flops_efficiency=1,
    gemm_flops_efficiency_fp8=1,
    gemm_bandwidth_efficiency=1,
    elementwise_bandwidth_efficiency=1,
    attention_flops_efficiency=1,
    attention_bandwidth_efficiency=1,
    decode_layer_overhead_ns=0,
    extend_layer_overhead_ns=0,
    step_overhead_ns=0,
)
ideal = RooflineLatency(QWEN, H200, options=IDEAL)
default = RooflineLatency(QWEN, H200)


def no_lengths():
    raise AssertionError("the roofline needs no lengths")


def step(prefill=(), decode=0, kv=0, sampled=0):
    return StepShape(prefill, decode, kv, sampled, no_lengths)


def measured_steps():
    root = Path(__file__).resolve().parents[2].parent
    return root / "shared" / "gpu" / "aic" / "aic012_step_points_h200_sglang0514.csv.gz"


def test_a_large_prefill_is_bound_by_arithmetic():
    parts = ideal.parts(step([(8192, 0)]))
    assert parts.linear == pytest.approx(8192 * QWEN.linear_flops_per_token / 989.4e12 * 1e9)
    pairs = 8192 * 8193 / 2
    assert parts.prefill_attention == pytest.approx(
        pairs * QWEN.attention_flops_per_pair / 989.4e12 * 1e9
    )
    assert parts.head == parts.decode_attention == 0


def test_a_small_decode_is_bound_by_reading_weights_and_kv():
    parts = ideal.parts(step(decode=1, kv=1000, sampled=1))
    weights_ns = QWEN.linear_bytes() / 4.8e12 * 1e9
    assert weights_ns < parts.linear < 1.001 * weights_ns
    assert parts.decode_attention == pytest.approx(1000 * 147_456 / 4.8e12 * 1e9)
    head_ns = 2 * QWEN.head_parameters / 4.8e12 * 1e9
    assert head_ns < parts.head < 1.001 * head_ns


def test_cached_tokens_are_attended_to_by_every_new_one():
    with_prefix = ideal.parts(step([(1000, 5000)])).prefill_attention
    pairs = 1000 * 5000 + 1000 * 1001 / 2
    assert with_prefix == pytest.approx(pairs * QWEN.attention_flops_per_pair / 989.4e12 * 1e9)


def test_a_few_new_tokens_after_a_long_prefix_are_bound_by_reading_it():
    parts = ideal.parts(step([(1, 100_000)]))
    assert parts.prefill_attention == pytest.approx(100_001 * 147_456 / 4.8e12 * 1e9)


def test_a_prompt_in_chunks_costs_the_attention_of_the_whole():
    whole = ideal.parts(step([(8192, 0)])).prefill_attention
    chunks = [ideal.parts(step([(4096, done)])).prefill_attention for done in (0, 4096)]
    assert sum(chunks) == pytest.approx(whole)


def test_weights_are_read_once_however_many_rows():
    assert default.step_ns(step(decode=64, kv=64, sampled=64)) < 1.2 * default.step_ns(
        step(decode=1, kv=64, sampled=1)
    )


def test_the_step_is_the_sum_of_its_parts_rounded_once():
    shape = step([(100, 7), (3000, 0)], decode=17, kv=40_000, sampled=18)
    assert default.step_ns(shape) == round(sum(default.parts(shape)))
    assert isinstance(default.step_ns(shape), int)


def test_overhead_is_per_layer_and_by_kind_of_step():
    options = IDEAL.model_copy(
        update={
            "decode_layer_overhead_ns": 10,
            "extend_layer_overhead_ns": 100,
            "step_overhead_ns": 7,
        }
    )
    roofline = RooflineLatency(QWEN, H200, options=options)
    assert roofline.parts(step(decode=1, kv=1)).overhead == 7 + 36 * 10
    assert roofline.parts(step([(1, 0)], decode=1, kv=1)).overhead == 7 + 36 * 100


def test_a_batch_with_no_row_takes_no_time():
    assert default.step_ns(step()) == 0


def test_fp8_halves_what_is_read():
    fp8 = RooflineLatency(QWEN, H200, weight_dtype="fp8", kv_dtype="fp8", options=IDEAL)
    shape = step(decode=1, kv=10_000, sampled=1)
    assert fp8.parts(shape).linear == pytest.approx(ideal.parts(shape).linear / 2, rel=1e-3)
    assert fp8.parts(shape).decode_attention == ideal.parts(shape).decode_attention / 2
    assert fp8.parts(shape).head == ideal.parts(shape).head
    with pytest.raises(ValueError, match="a100: no tensor-core rate for"):
        RooflineLatency(QWEN, Device.load("a100"), weight_dtype="fp8")


rows = st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 200_000)), max_size=6)
counts = st.integers(0, 512)


@given(rows, counts, st.integers(0, 1_000_000), counts, st.data())
def test_more_work_never_takes_less_time(prefill, decode, extra_kv, sampled, data):
    kv = decode + (extra_kv if decode else 0)
    before = default.step_ns(step(prefill, decode, kv, sampled))

    def at_least(*shape):
        assert default.step_ns(step(*shape)) >= before

    more = data.draw(st.integers(0, 10_000))
    at_least([*prefill, (1 + more, more)], decode, kv, sampled)
    at_least(prefill, decode + 1, kv + 1 + more, sampled)
    at_least(prefill, decode, kv, sampled + 1)
    if decode:
        at_least(prefill, decode, kv + more, sampled)
    for index, (new, cached) in enumerate(prefill):
        rest = prefill[:index] + prefill[index + 1 :]
        at_least([*rest, (new + more, cached)], decode, kv, sampled)
        at_least([*rest, (new, cached + more)], decode, kv, sampled)


@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(prefill, random):
    shuffled = random.sample(prefill, len(prefill))
    assert default.step_ns(step(prefill)) == default.step_ns(step(shuffled))


def test_options_are_checked():
    with pytest.raises(ValidationError, match="launch_us"):
        RooflineOptions.model_validate({"launch_us": 3})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        RooflineOptions(gemm_flops_efficiency=1.1)
    with pytest.raises(ValidationError, match="greater than 0"):
        RooflineOptions(attention_bandwidth_efficiency=0)


def test_a_decode_step_is_answered_in_microseconds():
    shape = step(decode=64, kv=128_000, sampled=64)
    repeats = 2000

    def once():
        start = time.perf_counter()
        for _ in range(repeats):
            default.step_ns(shape)
        return (time.perf_counter() - start) / repeats

    assert min(once() for _ in range(5)) < 4e-6


@pytest.mark.parametrize(
    ("model", "kind", "limit"),
    [
        ("Qwen/Qwen3-8B", "decode", 0.08),
        ("Qwen/Qwen3-8B", "prefill", 0.08),
        ("Qwen/Qwen3-8B", "mixed", 0.08),
        ("meta-llama/Meta-Llama-3.1-8B", "decode", 0.06),
        ("meta-llama/Meta-Llama-3.1-8B", "prefill", 0.06),
        ("meta-llama/Meta-Llama-3.1-8B", "mixed", 0.06),
    ],
)
def test_it_is_near_steps_put_together_from_measured_kernels(model, kind, limit):
    path = measured_steps()
    if not path.is_file():
        pytest.skip(f"needs {path.name}")
    points = pd.read_csv(path).query("model == @model and kind == @kind and tp == 1")
    roofline = RooflineLatency(ModelShape.load(model.replace("Meta-", "")), H200)
    errors = []
    for p in points.itertuples():
        n = p.num_prefill
        prefill = [(p.sum_prefill_tokens // n, p.sum_prefill_kv // n)] * n if n else []
        kv = p.sum_decode_kv + p.num_decode
        ms = roofline.step_ns(step(prefill, p.num_decode, kv, n + p.num_decode)) * 1e-6
        errors.append(abs(ms / p.pred_ms - 1))
    assert len(errors) == 1000
    assert sum(errors) / len(errors) < limit
