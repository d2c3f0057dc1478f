"""Random weights: seeded, of the right scale, from no more than a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from runtime.weights.load import load_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def dummy(path: str | Path, **options: Any) -> Any:
    return load_model(path, load_format="dummy", **options)


def test_a_seed_gives_the_same_model(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("qwen3_moe")
    first, same, other = (dummy(folder, seed=s).model.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "qwen3_moe"])
def test_nothing_vanishes_or_explodes_on_the_way_through(
    tiny_model: Callable[..., Path], dense_attend: Callable[..., Any], architecture: str
) -> None:
    model = dummy(tiny_model(architecture, num_hidden_layers=8)).model
    for parameter in model.parameters():
        assert parameter.std() > 0.005
    tokens = torch.arange(100)
    hidden = model(tokens, tokens, dense_attend)
    assert hidden.isfinite().all()
    assert 0.5 < model.logits(hidden).std() < 2.0


def test_a_bundled_name_or_a_config_is_enough(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    assert dummy(folder / "config.json").model.state_dict().keys()
    loaded = dummy("smollm2-135m", dtype="bf16")
    assert loaded.config.layers == 30
    assert loaded.tokenizer is None
    assert loaded.model.dtype == torch.bfloat16


def test_without_a_config_the_bundled_names_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gpt-9: not a folder .+ bundled models: .+Qwen/Qwen3-8B"):
        dummy("gpt-9")
    with pytest.raises(ValueError, match=f"{tmp_path}: not a model: config.json is missing"):
        dummy(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_large_model_is_drawn_on_the_device() -> None:
    model = dummy("qwen3-8b", device="cuda").model
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert model.layers[-1].attention.qkv.weight.std().item() == pytest.approx(4096**-0.5, rel=0.01)
