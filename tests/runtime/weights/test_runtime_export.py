"""An exported folder is the same model to this runtime and to transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from runtime.weights.export import export_folder
from runtime.weights.load import load_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_bias": True, "mlp_bias": True, "rope_scaling": LLAMA3}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"rope_scaling": YARN, "eos_token_id": [2, 5]}),
    ("qwen3_moe", {"num_hidden_layers": 3, "decoder_sparse_step": 2, "norm_topk_prob": False}),
]
TOKENS = torch.randint(0, 320, (60,), generator=torch.Generator().manual_seed(2)).tolist()


@pytest.mark.parametrize(("architecture", "overrides"), CASES)
def test_an_exported_model_is_the_same_model(
    tiny_model: Callable[..., Path],
    transformers_logits: Callable[..., torch.Tensor],
    tmp_path: Path,
    architecture: str,
    overrides: dict[str, Any],
) -> None:
    original = tiny_model(architecture, **overrides)
    loaded = load_model(original)
    export_folder(loaded, tmp_path / "exported")
    again = load_model(tmp_path / "exported")
    assert again.config == loaded.config
    expected = loaded.model.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in again.model.state_dict().items())
    theirs = transformers_logits(tmp_path / "exported", TOKENS)
    assert torch.equal(theirs, transformers_logits(original, TOKENS))


def test_the_type_it_is_loaded_in_is_the_type_it_is_saved_in(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    export_folder(load_model(tiny_model("llama"), dtype="bf16"), tmp_path)
    assert load_model(tmp_path).model.dtype == torch.bfloat16


def test_a_folder_with_a_model_is_left_alone(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    loaded = load_model(tiny_model("llama"))
    export_folder(loaded, tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: holds a config.json already"):
        export_folder(loaded, tmp_path)


@pytest.mark.weights
def test_smollm2_becomes_a_folder_with_its_tokenizer_and_template(
    smollm2: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    loaded = load_model(smollm2)
    export_folder(loaded, tmp_path)
    again = load_model(tmp_path)
    assert torch.equal(again.model.embedding, loaded.model.embedding)
    assert again.tokenizer is not None
    assert loaded.tokenizer is not None
    read: Any = AutoTokenizer.from_pretrained
    theirs = read(tmp_path)
    chat = [{"role": "user", "content": "What is 12 + 30?"}]
    ids = loaded.tokenizer.chat(chat)
    assert again.tokenizer.chat(chat) == ids
    rendered = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert rendered == ids
    assert theirs.eos_token_id == 2
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == [2]
