"""Weights that do not fit are refused before any memory is taken or anything is read or drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from runtime.memory import free_bytes, host_memory_bytes
from runtime.weights.load import load_model
from runtime.weights.room import weight_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtime.models.config import ModelConfig


@pytest.mark.parametrize("load_format", ["auto", "dummy"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe"])
def test_weights_have_to_fit_to_the_byte(
    tiny_model: Callable[..., Path], architecture: str, load_format: Any
) -> None:
    folder = tiny_model(architecture)
    loaded = load_model(folder, dtype="fp32", load_format=load_format)
    taken = sum(p.untyped_storage().nbytes() for p in loaded.model.parameters())
    assert weight_bytes(loaded.config, torch.float32) == taken
    load_model(folder, dtype="fp32", load_format=load_format, free=taken)
    with pytest.raises(ValueError, match=f"^{folder}: its weights take"):
        load_model(folder, dtype="fp32", load_format=load_format, free=taken - 1)
    load_model(folder, dtype="bf16", load_format=load_format, free=taken - 1)


def test_both_figures_are_said_and_what_would_help() -> None:
    # drawing these would take minutes and 15 GiB: that this returns at once shows that none were
    def refused(**options: Any) -> str:
        with pytest.raises(ValueError, match="weights take") as caught:
            load_model("qwen3-8b", load_format="dummy", free=12 << 30, **options)
        return str(caught.value)

    assert refused() == (
        "qwen3-8b: its weights take 15.3 GiB in bfloat16, and 12.0 GiB are free on cpu; free some, or "
        "take a smaller model or a GPU (runtime.device)"
    )
    said = refused(dtype="float32")
    assert "take 30.5 GiB in float32" in said
    assert "a smaller model, a narrower model.weight_dtype (bf16, fp16) or a GPU" in said
    assert "12.0 GiB are free on cuda:0" in refused(device="cuda:0")


def test_ties_are_counted_once(tiny_model: Callable[..., Path]) -> None:
    def config(*, tied: bool) -> ModelConfig:
        return load_model(tiny_model("qwen3", tie_word_embeddings=tied)).config

    tied, untied = config(tied=True), config(tied=False)
    head = untied.vocab_size * untied.hidden_size * 4
    assert weight_bytes(untied, torch.float32) == weight_bytes(tied, torch.float32) + head


def test_what_is_free_is_less_than_what_there_is() -> None:
    assert 0 < free_bytes(torch.device("cpu")) < host_memory_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_what_torch_keeps_unused_on_a_gpu_is_free() -> None:
    device = torch.device("cuda:0")
    before = free_bytes(device)
    block = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    assert free_bytes(device) <= before - (1 << 28) + (4 << 20)
    del block
    assert free_bytes(device) >= before - (4 << 20)  # though nvidia-smi sees it in use
