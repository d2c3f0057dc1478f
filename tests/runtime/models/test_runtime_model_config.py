"""What a config.json says, and what it may not say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from policies.model_shape import BUNDLED_FOLDER, ModelShape
from runtime.models.config import ARCHITECTURES
from runtime.models.decoder import Decoder
from runtime.models.hf_config import parse_config, read_config

if TYPE_CHECKING:
    from pathlib import Path

SERVED = [
    path
    for path in sorted(BUNDLED_FOLDER.glob("*.json"))
    if json.loads(path.read_text())["architectures"][0] in ARCHITECTURES.values()
]
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
}
MOE: dict[str, Any] = {
    **LLAMA,
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}


def parse(**changes: Any) -> Any:
    return parse_config({**LLAMA, **changes}, where="folder/config.json")


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.stem)
def test_a_decoder_has_the_parameters_that_its_shape_counts(path: Path) -> None:
    decoder = Decoder(read_config(path), device="meta")
    assert len(SERVED) > 8
    assert sum(p.numel() for p in decoder.parameters()) == ModelShape.load(path).parameters


def test_stop_tokens_are_the_generation_configs_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert read_config(tmp_path / "config.json").eos_ids == (2,)
    generation = tmp_path / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [151645, 151643]}))
    assert read_config(tmp_path / "config.json").eos_ids == (151645, 151643)
    generation.write_text(json.dumps({"temperature": 0.6}))
    assert read_config(tmp_path / "config.json").eos_ids == (2,)


def test_a_window_that_is_not_used_is_no_window() -> None:
    assert parse(sliding_window=4096, use_sliding_window=False).layers == 2


def test_either_layers_hold_experts_or_an_mlp() -> None:
    config = parse_config(
        {**MOE, "num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
        where="config.json",
    )
    assert config.experts is not None
    assert config.experts.layers == (1, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "'MambaForCausalLM' is not supported; supported: LlamaForCausalLM, Qwen2ForCausalLM, ",
        ),
        ({"architectures": None}, "architectures is None; expected one of: LlamaForCausalLM"),
        ({"hidden_size": None}, "key 'hidden_size' is missing; expected a positive integer"),
        ({"num_attention_heads": "four"}, "num_attention_heads is 'four'; expected a positive"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 4"),
        ({"hidden_size": 66}, "hidden_size 66 is not a multiple of num_attention_heads 4"),
        ({"head_dim": 15}, "head_dim is 15; rotary embeddings need an even one"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected 'silu'"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0; expected a number above 0"),
        ({"dtype": "float8_e5m2"}, "dtype is 'float8_e5m2'; expected bfloat16, float16 or float32"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'; expected a token id or a list of them"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised checkpoints are not"),
        (
            {"sliding_window": 128, "use_sliding_window": True},
            "attention within a window is not supported, expected use_sliding_window: false",
        ),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "attention within a window is not supported",
        ),
        (
            {"rope_scaling": {"rope_type": "longrope"}},
            "rope_scaling: rope_type 'longrope' is not supported; supported: default, llama3, yarn",
        ),
        ({"rope_scaling": {"rope_type": "llama3"}}, "key 'low_freq_factor' is missing"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
        ({**MOE, "num_experts": None}, "key 'num_experts' is missing"),
        ({**MOE, "num_experts_per_tok": 9}, "num_experts_per_tok is 9; there are only 8 experts"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(**changes)
