"""The decoder computes what transformers computes, for each architecture and each of its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from runtime.models.config import ARCHITECTURES
from runtime.weights.load import load_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtime.models.decoder import Decoder

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((architecture, {}) for architecture in ARCHITECTURES),
    *((architecture, {"tie_word_embeddings": True}) for architecture in ARCHITECTURES),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"rope_scaling": LLAMA3}),
    ("llama", {"num_key_value_heads": 4}),
    ("qwen2", {"rope_scaling": YARN}),
    ("qwen3", {"attention_bias": True, "head_dim": 24, "rope_scaling": YARN}),
    ("qwen3_moe", {"norm_topk_prob": False, "num_experts_per_tok": 3}),
    ("qwen3_moe", {"num_hidden_layers": 3, "mlp_only_layers": [1]}),
    ("qwen3_moe", {"num_hidden_layers": 3, "decoder_sparse_step": 2}),
]
TOKENS = torch.randint(0, 320, (150,), generator=torch.Generator().manual_seed(1)).tolist()


def all_logits(model: Decoder, tokens: list[int], attend: Callable[..., Any]) -> torch.Tensor:
    with torch.inference_mode():
        hidden = model(torch.tensor(tokens), torch.arange(len(tokens)), attend)
        return model.logits(hidden)


@pytest.mark.parametrize(("architecture", "overrides"), VARIANTS)
def test_logits_equal_those_of_transformers(
    tiny_model: Callable[..., Path],
    dense_attend: Callable[..., Any],
    transformers_logits: Callable[..., torch.Tensor],
    architecture: str,
    overrides: dict[str, Any],
) -> None:
    folder = tiny_model(architecture, **overrides)
    ours = all_logits(load_model(folder).model, TOKENS, dense_attend)
    theirs = transformers_logits(folder, TOKENS)
    assert theirs.std() > 0.5, "the test would not notice a mistake"
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_narrow_types_stay_close_to_fp32(
    tiny_model: Callable[..., Path],
    dense_attend: Callable[..., Any],
    architecture: str,
    dtype: str,
) -> None:
    folder = tiny_model(architecture)
    narrow = load_model(folder, dtype=dtype).model
    exact = all_logits(load_model(folder).model, TOKENS, dense_attend)
    logits = all_logits(narrow, TOKENS, dense_attend)
    assert logits.dtype == torch.float32
    error = (logits - exact).std() / exact.std()
    assert error < 0.02


def test_sequences_in_one_batch_do_not_know_of_each_other(
    tiny_model: Callable[..., Path], dense_attend: Callable[..., Any]
) -> None:
    model = load_model(tiny_model("qwen3_moe")).model
    first, second = TOKENS[:40], TOKENS[40:65]

    def attend(layer: int, *heads: torch.Tensor) -> torch.Tensor:
        parts = zip(*(torch.split(x, [len(first), len(second)]) for x in heads), strict=True)
        return torch.cat([dense_attend(layer, *part) for part in parts])

    tokens = torch.tensor(first + second)
    positions = torch.cat((torch.arange(len(first)), torch.arange(len(second))))
    with torch.inference_mode():
        together = model.logits(model(tokens, positions, attend))
    apart = [all_logits(model, part, dense_attend) for part in (first, second)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-4, rtol=1e-4)


def test_attention_is_given_what_its_backends_expect(
    tiny_model: Callable[..., Path], dense_attend: Callable[..., Any]
) -> None:
    model = load_model(tiny_model("qwen3"), dtype="bf16").model
    c = model.config
    seen = []

    def attend(layer: int, *heads: torch.Tensor) -> torch.Tensor:
        seen.append(layer)
        q, k, v = heads
        assert q.shape == (7, c.heads, c.head_dim)
        assert k.shape == v.shape == (7, c.kv_heads, c.head_dim)
        assert {x.dtype for x in heads} == {torch.bfloat16}
        assert q.is_contiguous()
        assert k.is_contiguous()
        assert v.stride()[1:] == (c.head_dim, 1)
        result: torch.Tensor = dense_attend(layer, *heads)
        return result

    all_logits(model, TOKENS[:7], attend)
    assert seen == list(range(c.layers))


def test_nothing_is_kept_for_a_backward_pass(
    tiny_model: Callable[..., Path], dense_attend: Callable[..., Any]
) -> None:
    model = load_model(tiny_model("qwen2")).model
    hidden = model(torch.tensor(TOKENS), torch.arange(len(TOKENS)), dense_attend)
    assert not hidden.requires_grad
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3_moe"])
def test_compiled_layers_compute_the_same_with_one_compilation_for_all(
    tiny_model: Callable[..., Path], dense_attend: Callable[..., Any], architecture: str
) -> None:
    from torch._dynamo.utils import counters

    model = load_model(tiny_model(architecture, num_hidden_layers=3)).model
    plain = all_logits(model, TOKENS, dense_attend)
    counters.clear()
    model.compile_layers(dynamic=True)
    for tokens in (TOKENS, TOKENS[:9]):
        logits = all_logits(model, tokens, dense_attend)
        torch.testing.assert_close(logits, plain[: len(tokens)], atol=1e-4, rtol=1e-4)
    # before attention, and after it; a mixture is cut in three there, since experts stay eager
    assert counters["stats"]["unique_graphs"] == (4 if architecture == "qwen3_moe" else 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gpu_computes_what_the_cpu_does(
    tiny_model: Callable[..., Path], dense_attend: Callable[..., Any], architecture: str
) -> None:
    folder = tiny_model(architecture)
    expected = all_logits(load_model(folder).model, TOKENS, dense_attend)
    model = load_model(folder, device="cuda").model
    positions = torch.arange(len(TOKENS), device="cuda")
    with torch.inference_mode():
        hidden = model(torch.tensor(TOKENS, device="cuda"), positions, dense_attend)
        logits = model.logits(hidden).cpu()
    torch.testing.assert_close(logits, expected, atol=5e-3, rtol=5e-3)
