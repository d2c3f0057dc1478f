"""KV capacity is what a fraction of the memory leaves beside the weights, in whole pages."""

import dataclasses

import pytest

from policies.model_shape import ModelShape
from simulator.capacity import CUDA_CONTEXT_BYTES, auto_mem_fraction, kv_capacity_tokens
from simulator.devices import Device
from simulator.operators.shards import Parallel

QWEN = ModelShape.load("Qwen/Qwen3-8B")
LLAMA = ModelShape.load("meta-llama/Llama-3.1-8B")
H200 = Device.load("h200")
H100 = Device.load("h100")
GIB = 1 << 30


def test_capacity_by_hand():
    budget = int((H200.memory_bytes - CUDA_CONTEXT_BYTES) * 0.5)
    expected = (budget - 2 * QWEN.parameters) // (147_456 * 16) * 16
    assert kv_capacity_tokens(QWEN, H200, mem_fraction=0.5, page_size=16) == expected


def test_llama_on_an_h100_gets_the_pool_sglang_logs():
    # SGLang's log of Llama-3.1-8B-Instruct on an H100 with mem_fraction_static=0.88:
    # "KV Cache is allocated. K size: 27.13 GB, V size: 27.13 GB." (in GiB)
    tokens = kv_capacity_tokens(LLAMA, H100, mem_fraction=0.88)
    assert tokens * LLAMA.kv_bytes_per_token() / GIB == pytest.approx(2 * 27.13, rel=0.002)


def test_the_automatic_fraction_follows_sglangs_rule():
    # 512 + 1.5 * 8192 + 2 * 256 + 128 = 13,440 MiB are kept of an H200's 143,155 MiB.
    assert auto_mem_fraction(H200) == round((143_155 - 13_440) / 143_155, 3)
    # A smaller chunk keeps less, but never less than 10 GiB on a large GPU.
    assert auto_mem_fraction(H200, chunked_prefill_size=4096) == round(1 - 10_240 / 143_155, 3)
    # 512 + 1.5 * 2048 + 2 * 24 + 128 = 3,760 MiB on a small one.
    assert auto_mem_fraction(Device.load("rtx4090")) == round(1 - 3_760 / 24_081, 3)


def test_a_split_model_leaves_each_gpu_its_part_of_weights_and_kv():
    budget = int((H200.memory_bytes - CUDA_CONTEXT_BYTES) * 0.5)
    token = QWEN.kv_bytes_per_token()
    for parallel, part, kv_part in (
        (Parallel(tp=2), 2, 2),
        (Parallel(pp=4), 4, 4),
        (Parallel(tp=16), 16, 8),  # there are 8 KV heads: each is on two GPUs
    ):
        expected = (budget - QWEN.weight_bytes() // part) // (token // kv_part)
        assert kv_capacity_tokens(QWEN, H200, mem_fraction=0.5, parallel=parallel) == expected
    assert auto_mem_fraction(H200, gpus=8) == round((143_155 - 13_440 - 7 * 128) / 143_155, 3)


def test_experts_are_spread_and_attention_is_whole_on_each_rank():
    model = ModelShape.load("Qwen/Qwen3-30B-A3B")
    budget = int((H200.memory_bytes - CUDA_CONTEXT_BYTES) * 0.5)
    experts = 2 * model.routed_parameters
    weights = model.weight_bytes() - experts + experts // 2
    expected = (budget - weights) // model.kv_bytes_per_token()
    found = kv_capacity_tokens(model, H200, mem_fraction=0.5, parallel=Parallel(ep=2))
    assert found == expected


def test_fp8_kv_doubles_and_fp8_weights_add():
    plain = kv_capacity_tokens(QWEN, H200)
    assert kv_capacity_tokens(QWEN, H200, kv_dtype="fp8") in (2 * plain, 2 * plain + 1)
    assert kv_capacity_tokens(QWEN, H200, weight_dtype="fp8") > plain
    assert kv_capacity_tokens(QWEN, H200, kv_dtype="bf16", weight_dtype="bf16") == plain


@pytest.mark.parametrize("page_size", [1, 16, 64, 1000])
def test_capacity_is_whole_pages(page_size):
    tokens = kv_capacity_tokens(QWEN, H200, page_size=page_size)
    assert tokens % page_size == 0
    assert 0 <= kv_capacity_tokens(QWEN, H200) - tokens < page_size


def test_weights_that_do_not_fit_say_what_is_missing_and_what_would_help():
    model = ModelShape.load("meta-llama/Llama-3.1-70B")
    with pytest.raises(ValueError, match=r"Llama-3.1-70B does not fit on h200.*131.4 GiB") as error:
        kv_capacity_tokens(model, H200)
    missing = int(str(error.value).split(" need ")[1].split(" bytes")[0].replace(",", ""))
    assert "fp8" in str(error.value)
    budget = int((H200.memory_bytes - CUDA_CONTEXT_BYTES) * auto_mem_fraction(H200))
    assert missing == model.weight_bytes() + model.kv_bytes_per_token() - budget
    assert kv_capacity_tokens(model, H200, weight_dtype="fp8") > 0


def test_one_page_more_than_fits_is_an_error():
    tokens = kv_capacity_tokens(QWEN, H200)
    assert kv_capacity_tokens(QWEN, H200, page_size=tokens) == tokens
    with pytest.raises(ValueError, match="does not fit"):
        kv_capacity_tokens(QWEN, H200, page_size=tokens + 1)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
def test_an_impossible_fraction_is_an_error(fraction):
    with pytest.raises(ValueError, match="mem_fraction is"):
        kv_capacity_tokens(QWEN, H200, mem_fraction=fraction)


def test_an_impossible_page_or_reserve_is_an_error():
    with pytest.raises(ValueError, match="page_size is 0; expected >= 1"):
        kv_capacity_tokens(QWEN, H200, page_size=0)
    small = dataclasses.replace(H200, name="small", memory_bytes=2 * GIB)
    with pytest.raises(ValueError, match="use a smaller chunked_prefill_size than 2048"):
        auto_mem_fraction(small)
