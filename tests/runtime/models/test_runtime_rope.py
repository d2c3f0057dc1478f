"""Rotary frequencies equal transformers', for whatever a config may say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from runtime.models.hf_config import parse_config
from runtime.models.rope import RotaryEmbedding, YarnScaling, rotate

SIZES: dict[str, Any] = {
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_hidden_layers": 1,
    "intermediate_size": 8,
    "vocab_size": 8,
    "max_position_embeddings": 4096,
}
THETAS = st.sampled_from([10_000.0, 100_000.0, 500_000.0, 1_000_000.0])
FACTORS = st.floats(1.0, 64.0)
CONTEXTS = st.sampled_from([128, 2048, 8192, 32768])
LLAMA3 = st.fixed_dictionaries(
    {
        "rope_type": st.just("llama3"),
        "factor": FACTORS,
        "low_freq_factor": st.floats(0.5, 2.0),
        "high_freq_factor": st.floats(2.5, 8.0),
        "original_max_position_embeddings": CONTEXTS,
    }
)
YARN = st.fixed_dictionaries(
    {
        "rope_type": st.just("yarn"),
        "factor": FACTORS,
        "original_max_position_embeddings": CONTEXTS,
    },
    optional={
        "attention_factor": st.floats(0.5, 2.0),
        "beta_fast": st.floats(16.0, 64.0),
        "beta_slow": st.floats(0.5, 4.0),
        "truncate": st.booleans(),
        "mscale": st.floats(0.5, 1.5),
        "mscale_all_dim": st.floats(0.5, 1.5),
    },
)
PLAIN = st.just({"rope_type": "default"})


@given(theta=THETAS, scaling=st.one_of(PLAIN, LLAMA3, YARN), head_dim=st.sampled_from([64, 128]))
def test_frequencies_equal_those_of_transformers(
    theta: float, scaling: dict[str, Any], head_dim: int
) -> None:
    config = LlamaConfig(
        **SIZES, head_dim=head_dim, rope_parameters={**scaling, "rope_theta": theta}
    )
    theirs = LlamaRotaryEmbedding(config)
    rope = parse_config(config.to_dict() | {"model_type": "llama"}, where="config.json").rope
    torch.testing.assert_close(rope.frequencies(head_dim), theirs.inv_freq, rtol=1e-5, atol=1e-10)
    assert rope.attention_factor == pytest.approx(theirs.attention_scaling)


def test_heads_are_turned_as_transformers_turns_them() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    config = LlamaConfig(**SIZES, rope_parameters={**scaling, "rope_theta": 1e4})
    positions = torch.tensor([0, 1, 77, 4095, 3])
    q, k = torch.randn(5, 8, 64), torch.randn(5, 2, 64)
    cos, sin = LlamaRotaryEmbedding(config)(q, positions[None])
    expected = apply_rotary_pos_emb(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos, sin)
    rope = parse_config(config.to_dict() | {"model_type": "llama"}, where="config.json").rope
    ours = RotaryEmbedding(rope, 64, "cpu")(positions, torch.float32)
    for x, theirs in zip((q, k), expected, strict=True):
        torch.testing.assert_close(rotate(x, *ours), theirs[0].transpose(0, 1))


def test_both_spellings_of_a_config_say_the_same() -> None:
    scaling = {"factor": 4.0, "original_max_position_embeddings": 1024}
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "yarn", **scaling}}
    new = {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, **scaling}}
    said = [
        parse_config({"model_type": "qwen2", **SIZES, **spelled}, where="config.json").rope
        for spelled in (old, new)
    ]
    assert said[0] == said[1]
    assert said[0].theta == 5e5
    assert isinstance(said[0].scaling, YarnScaling)
