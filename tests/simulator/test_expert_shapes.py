"""Mixtures of experts and latent attention: which layers hold what, and what a token costs."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import ModelShape
from policies.shapes.attention import GroupedQueryAttention, LatentAttention
from policies.shapes.mlp import MixtureOfExperts

MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}
QWEN = {
    **MIXTRAL,
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 4,
    "moe_intermediate_size": 6,
}
LLAMA_4 = {
    "architectures": ["Llama4ForConditionalGeneration"],
    "text_config": {**MIXTRAL, "architectures": None, "intermediate_size_mlp": 24},
}
DEEPSEEK = {
    **MIXTRAL,
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_key_value_heads": 4,
    "q_lora_rank": 5,
    "kv_lora_rank": 6,
    "qk_nope_head_dim": 3,
    "qk_rope_head_dim": 2,
    "v_head_dim": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "moe_intermediate_size": 7,
    "first_k_dense_replace": 1,
}


def shape(config, **changes):
    return ModelShape.from_config(config | changes, name="tiny", where="tiny.json")


def llama_4(**changes):
    text = LLAMA_4["text_config"] | changes
    return shape(LLAMA_4, text_config=text)


# -- by hand ------------------------------------------------------------------------------------


def test_mixtral_by_hand():
    s = shape(MIXTRAL)
    attention, expert = 8 * 2 * 2 * (4 + 2), 3 * 8 * 16
    assert (s.dense_layers, s.moe_layers) == (0, 4)
    assert s.dense_parameters == 4 * attention
    assert s.routed_parameters == 4 * 4 * expert
    assert s.router_parameters == 4 * 4 * 8
    inside = s.dense_parameters + s.routed_parameters + s.router_parameters
    assert s.parameters == inside + 4 * 2 * 8 + 8 + 2 * 32 * 8
    assert s.parameters - s.active_parameters == 4 * 2 * expert
    assert s.linear_flops_per_token == 2 * 4 * (attention + 4 * 8 + 2 * expert)


def test_deepseek_by_hand():
    s = shape(DEEPSEEK)
    queries = 8 * 5 + 5 * 4 * (3 + 2)
    attention = queries + 8 * (6 + 2) + 6 * 4 * (3 + 4) + 4 * 4 * 8
    assert s.attention.matrix_parameters == attention
    assert s.attention.vector_parameters == 5 + 6
    dense, shared, expert = 3 * 8 * 16, 2 * 3 * 8 * 7, 3 * 8 * 7
    assert (s.dense_layers, s.moe_layers) == (1, 3)
    assert s.dense_parameters == 4 * attention + dense + 3 * shared
    assert s.routed_parameters == 3 * 4 * expert
    assert s.router_parameters == 3 * 4 * (8 + 1)  # with a correction per expert


def test_latent_attention_keeps_one_latent_and_one_rotary_key():
    s = shape(DEEPSEEK)
    assert s.kv_bytes_per_token() == 4 * (6 + 2) * 2
    assert (s.kv_heads, s.head_dim) == (1, 8)
    assert ModelShape.load("deepseek-v3").kv_bytes_per_token() == 61 * (512 + 64) * 2


def test_latent_attention_is_wide_in_decode_and_narrow_in_prefill():
    s = shape(DEEPSEEK)
    assert s.attention_flops_per_pair == 4 * 2 * 4 * (3 + 2 + 4)
    assert s.decode_attention_flops_per_pair == 4 * 2 * 4 * (6 + 2 + 6)
    assert s.attention.expansion_flops == 2 * 6 * 4 * (3 + 4)


def test_queries_may_be_projected_in_one_step():
    one_step, two_steps = shape(DEEPSEEK, q_lora_rank=None), shape(DEEPSEEK)
    difference = two_steps.attention.matrix_parameters - one_step.attention.matrix_parameters
    assert difference == (8 * 5 + 5 * 20) - 8 * 20


# -- which layers hold experts ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "moe_layers"),
    [
        ({}, 4),
        ({"decoder_sparse_step": 2}, 2),
        ({"mlp_only_layers": [0, 3]}, 2),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, 1),
        ({"mlp_only_layers": [0, 1, 2, 3]}, 0),
    ],
)
def test_qwen_layers(changes, moe_layers):
    s = shape(QWEN, **changes)
    assert (s.dense_layers, s.moe_layers) == (4 - moe_layers, moe_layers)
    assert (s.mlp is None) == (moe_layers == 4)
    assert (s.moe is None) == (moe_layers == 0)


def test_llama_4_layers():
    assert llama_4().moe_layers == 4
    assert llama_4(interleave_moe_layer_step=2).moe_layers == 2
    assert llama_4(moe_layers=[2]).moe_layers == 1
    maverick = ModelShape.load("Llama-4-Maverick-17B-128E-Instruct")
    assert (maverick.dense_layers, maverick.moe_layers) == (24, 24)
    assert maverick.mlp.inner_size == 16384
    assert maverick.moe.shared_inner_size == maverick.moe.inner_size == 8192


def test_llama_4_norms_queries_and_keys_without_weights():
    plain, normed = llama_4(), llama_4(use_qk_norm=True)
    assert plain.parameters == normed.parameters
    assert plain.attention.elementwise_traffic < normed.attention.elementwise_traffic


def test_deepseek_layers():
    assert shape(DEEPSEEK, first_k_dense_replace=0).moe_layers == 4
    assert shape(DEEPSEEK, n_shared_experts=0).moe.shared is None


def test_the_text_model_is_read_from_its_section():
    assert llama_4().vocab_size == 32
    with pytest.raises(ValueError, match=r"tiny\.json: text_config is None; expected a JSON obj"):
        shape(LLAMA_4, text_config=None)
    with pytest.raises(ValueError, match=r"tiny\.json: text_config: key 'vocab_size' is missing"):
        llama_4(vocab_size=None)


# -- precision ----------------------------------------------------------------------------------


def test_an_fp8_checkpoint_stores_the_matrices_in_fp8_and_the_routers_not():
    quantised = shape(DEEPSEEK, quantization_config={"quant_method": "fp8"})
    assert quantised.matrix_dtype == "float8_e4m3fn"
    assert quantised.dtype == "bfloat16"
    assert quantised.weight_bytes() == shape(DEEPSEEK).weight_bytes("fp8")
    rest = quantised.parameters - quantised.linear_parameters
    assert quantised.weight_bytes() == quantised.linear_parameters + 2 * rest
    assert rest > quantised.router_parameters > 0
    assert quantised.kv_bytes_per_token() == shape(DEEPSEEK).kv_bytes_per_token()


def test_deepseek_v3_is_published_in_fp8():
    assert 671e9 < ModelShape.load("deepseek-ai/DeepSeek-V3").weight_bytes() < 674e9


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (MIXTRAL, {"num_local_experts": None}, "key 'num_local_experts' is missing"),
        (MIXTRAL, {"num_experts_per_tok": 5}, "tiny.json: 5 experts per token of 4"),
        (QWEN, {"mlp_only_layers": [4]}, r"mlp_only_layers is \[4\]; expected .* from 0 to 3"),
        (QWEN, {"mlp_only_layers": 1}, "mlp_only_layers is 1; expected a list"),
        (DEEPSEEK, {"attention_bias": True}, "attention_bias is True; expected false"),
        (DEEPSEEK, {"moe_layer_freq": 2}, "moe_layer_freq is 2; expected 1"),
        (DEEPSEEK, {"topk_method": "greedy"}, "topk_method is 'greedy'; expected 'noaux_tc'"),
        (DEEPSEEK, {"kv_lora_rank": None}, "key 'kv_lora_rank' is missing"),
        (DEEPSEEK, {"first_k_dense_replace": -1}, "first_k_dense_replace is -1; .* at least 0"),
        (DEEPSEEK, {"first_k_dense_replace": 5}, "first_k_dense_replace is 5; .* at most 4"),
        (MIXTRAL, {"quantization_config": {"quant_method": "awq"}}, "quant_method is not 'fp8'"),
        (MIXTRAL, {"sliding_window": 32}, "sliding_window is 32"),
    ],
)
def test_a_bad_config_is_an_error_that_names_file_and_key(config, changes, message):
    with pytest.raises(ValueError, match=message):
        shape(config, **changes)


# -- experts touched ----------------------------------------------------------------------------


def mixture(experts=16, per_token=2):
    return MixtureOfExperts(8, experts, per_token, 4)


def test_one_token_touches_its_experts_and_many_touch_all():
    assert mixture().expected_experts(0) == 0
    assert mixture().expected_experts(1) == pytest.approx(2)
    assert mixture().expected_experts(10_000) == pytest.approx(16)
    assert mixture(4, 4).expected_experts(1) == 4


@given(st.integers(1, 64), st.data())
def test_the_expectation_is_that_of_uniform_routing(experts, data):
    per_token = data.draw(st.integers(1, experts))
    moe = mixture(experts, per_token)
    tokens = data.draw(st.integers(0, 300))
    closed = experts * (1 - (1 - per_token / experts) ** tokens)
    assert moe.expected_experts(tokens) == pytest.approx(closed)
    assert moe.expected_experts(tokens) <= min(experts, tokens * per_token) + 1e-9
    assert moe.expected_experts(tokens) <= moe.expected_experts(tokens + 1) + 1e-12


def test_sampled_routing_touches_as_many():
    draw, moe, tokens = random.Random(0), mixture(32, 4), 10
    touched = [
        len({e for _ in range(tokens) for e in draw.sample(range(32), 4)}) for _ in range(2000)
    ]
    assert sum(touched) / len(touched) == pytest.approx(moe.expected_experts(tokens), rel=0.01)


def test_a_head_that_shares_unevenly_is_an_error():
    with pytest.raises(ValueError, match="4 heads cannot share 3 kv heads"):
        GroupedQueryAttention(8, 4, 3, 2)
    with pytest.raises(ValueError, match="kv_lora_rank is 0; expected >= 1"):
        LatentAttention(8, 4, None, 0, 2, 2, 2)
