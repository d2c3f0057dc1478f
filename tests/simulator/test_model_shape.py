"""A model's shape is what its config.json says, and its counts are the published ones."""

from __future__ import annotations

import json

import pytest

from policies.model_shape import ModelShape, bundled_models, canonical_dtype, dtype_bytes

LLAMA_4_VISION = 871_932_416

# Elements of the published checkpoints; a tied LM head counted once.
PUBLISHED_PARAMETERS = {
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    # without the module that predicts a second token
    "deepseek-ai/DeepSeek-V3": 671_026_419_200,
    # without the vision tower and its projector
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": 108_641_793_536 - LLAMA_4_VISION,
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": 401_583_781_376 - LLAMA_4_VISION,
}

# What the model cards say one token uses, in billions. DeepSeek-V3's 37 counts the embedding table.
PUBLISHED_ACTIVE_BILLIONS = {
    "Qwen/Qwen3-30B-A3B": 3.3,
    "Qwen/Qwen3-235B-A22B": 22,
    "mistralai/Mixtral-8x7B-v0.1": 12.9,
    "deepseek-ai/DeepSeek-V3": 37,
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": 17,
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": 17,
}

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}


def tiny(**changes):
    config = {**TINY, **changes}
    return {key: value for key, value in config.items() if value != "absent"}


def shape(**changes):
    return ModelShape.from_config(tiny(**changes), name="tiny", where="tiny.json")


def test_every_bundled_model_is_checked_here():
    assert set(bundled_models()) == set(PUBLISHED_PARAMETERS)


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    assert ModelShape.load(name).parameters == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("name", PUBLISHED_ACTIVE_BILLIONS)
def test_active_parameters_are_the_published_ones(name):
    active = ModelShape.load(name).active_parameters / 1e9
    assert active == pytest.approx(PUBLISHED_ACTIVE_BILLIONS[name], rel=0.02)


def test_the_parts_of_a_tiny_model_by_hand():
    s = shape()
    assert s.head_dim == 2
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8
    assert s.linear_parameters == 2 * (attention + 3 * 8 * 16)
    assert s.embedding_parameters == s.head_parameters == 32 * 8
    norms = 2 * 2 * 8 + 8
    assert s.parameters == s.linear_parameters + norms + 2 * 32 * 8
    assert s.linear_flops_per_token == 2 * s.linear_parameters
    assert s.head_flops_per_row == 2 * 32 * 8
    assert s.attention_flops_per_pair == 4 * 4 * 2 * 2
    assert s.kv_bytes_per_token() == 2 * 2 * 2 * 2 * 2
    assert s.kv_bytes_per_token("fp8") == 2 * 2 * 2 * 2


def test_a_tied_head_is_stored_once_but_still_computed():
    tied = shape(tie_word_embeddings=True)
    assert shape().parameters - tied.parameters == 32 * 8
    assert tied.head_flops_per_row == shape().head_flops_per_row


def test_biases_and_norms_follow_the_architecture():
    plain = shape().parameters
    assert shape(attention_bias=True).parameters - plain == 2 * (8 + 2 * 4 + 8)
    assert shape(mlp_bias=True).parameters - plain == 2 * (2 * 16 + 8)
    assert shape(architectures=["Qwen2ForCausalLM"]).parameters - plain == 2 * (8 + 2 * 4)
    assert shape(architectures=["Qwen3ForCausalLM"]).parameters - plain == 2 * 2 * 2
    assert shape(architectures=["MistralForCausalLM"]).parameters == plain


def test_a_given_head_dim_goes_before_hidden_over_heads():
    assert shape(head_dim=6).head_dim == 6
    assert ModelShape.load("Qwen/Qwen3-0.6B").head_dim == 128


def test_fp8_weights_shrink_only_the_matrices_of_the_layers():
    s = shape()
    assert s.weight_bytes() == 2 * s.parameters
    assert s.weight_bytes("fp8") == 2 * s.parameters - s.linear_parameters


def test_qwen3_8b_costs_144_kib_of_kv_a_token():
    assert ModelShape.load("Qwen/Qwen3-8B").kv_bytes_per_token() == 144 * 1024


@pytest.mark.parametrize("name", ["qwen/qwen3-8b", "QWEN3-8B", "Qwen3-8B"])
def test_bundled_names_are_found_without_case_or_owner(name):
    assert ModelShape.load(name) == ModelShape.load("Qwen/Qwen3-8B")


def test_a_folder_and_a_file_are_read(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    file = folder / "config.json"
    file.write_text(json.dumps(TINY))
    assert ModelShape.load(folder) == ModelShape.load(file)
    assert ModelShape.load(folder).name == "my-model"


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown model 'gpt-5'.*Qwen/Qwen3-8B"):
        ModelShape.load("gpt-5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "tiny.json: architecture 'GPT2LM.*Qwen3For"),
        ({"architectures": "absent"}, "tiny.json: architectures is None"),
        ({"hidden_size": "absent"}, "tiny.json: key 'hidden_size' is missing"),
        ({"hidden_size": "8"}, "tiny.json: hidden_size is '8'; expected a positive integer"),
        ({"num_hidden_layers": 0}, "tiny.json: num_hidden_layers is 0"),
        ({"vocab_size": True}, "tiny.json: vocab_size is True"),
        ({"tie_word_embeddings": 1}, "tiny.json: tie_word_embeddings is 1; expected true or false"),
        ({"torch_dtype": "int4"}, "tiny.json: dtype: unknown dtype 'int4'; known: .*bf16"),
        ({"hidden_size": 10}, "hidden_size 10 is not a multiple"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3 kv heads"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set.*weight_dtype"),
        ({"sliding_window": 32}, "sliding_window is 32"),
    ],
)
def test_a_bad_config_is_an_error_that_names_file_and_key(changes, message):
    with pytest.raises(ValueError, match=message):
        shape(**changes)


def test_an_unused_sliding_window_is_no_error():
    assert shape(sliding_window=32, use_sliding_window=False) == shape()


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_is_no_json_object_is_named(tmp_path, text):
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json"):
        ModelShape.load(file)


def test_dtype_aliases():
    assert canonical_dtype("bf16") == "bfloat16"
    assert dtype_bytes("fp8") == 1
    with pytest.raises(ValueError, match="unknown dtype 'int3'"):
        dtype_bytes("int3")
