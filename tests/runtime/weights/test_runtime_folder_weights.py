"""HuggingFace folders: whole or sharded they load the same, and what is wrong is said by tensor."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.weights.load import load_model
from runtime.weights.names import huggingface_views

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(tiny_model("qwen2"), tmp_path / "model")


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    """Change tensors of a checkpoint; None takes one out."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


def shard(folder: Path) -> dict[str, str]:
    """Split a checkpoint in two files with an index, as transformers does."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for i, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "qwen3_moe"])
def test_every_tensor_of_a_checkpoint_is_in_the_model(
    tiny_model: Callable[..., Path], architecture: str
) -> None:
    folder = tiny_model(architecture)
    stored = load_file(folder / "model.safetensors")
    views = huggingface_views(load_model(folder).model)
    assert views.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(views[name], tensor), name


def test_shards_hold_what_the_whole_file_holds(folder: Path) -> None:
    whole = load_model(folder).model.state_dict()
    shard(folder)
    sharded = load_model(folder).model.state_dict()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("float32", torch.float32),
    ],
)
def test_weights_are_in_the_type_asked_for(folder: Path, dtype: str, expected: torch.dtype) -> None:
    model = load_model(folder, dtype=dtype).model
    assert {p.dtype for p in model.parameters()} == {expected}
    stored = load_file(folder / "model.safetensors")[UP]
    assert torch.equal(huggingface_views(model)[UP], stored.to(expected))


def test_a_tied_head_is_the_embedding_even_if_it_is_stored(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model("llama", tie_word_embeddings=True), tmp_path / "model")
    rewrite(folder, **{"lm_head.weight": torch.zeros(320, 64)})
    model = load_model(folder).model
    assert model.head is model.embedding
    assert model.head.std() > 0.5


def test_old_checkpoints_may_hold_their_rotary_frequencies(folder: Path) -> None:
    rewrite(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    load_model(folder)


def test_a_missing_tensor(folder: Path) -> None:
    rewrite(folder, **{UP: None})
    with pytest.raises(ValueError, match=f"{folder}: tensor '{UP}' is missing"):
        load_model(folder)


def test_a_tensor_too_many(folder: Path) -> None:
    rewrite(folder, **{"model.layers.7.mlp.up_proj.weight": torch.zeros(96, 64)})
    with pytest.raises(ValueError, match=r"model.safetensors: tensor 'model.layers.7.+' belongs"):
        load_model(folder)


def test_a_tensor_of_another_shape(folder: Path) -> None:
    rewrite(folder, **{UP: torch.zeros(95, 64)})
    message = rf"model.safetensors: tensor '{UP}' has shape \[95, 64\].+ asks for \[96, 64\]"
    with pytest.raises(ValueError, match=message):
        load_model(folder)


def test_a_quantised_tensor(folder: Path) -> None:
    rewrite(folder, **{UP: torch.zeros(96, 64, dtype=torch.int8)})
    with pytest.raises(ValueError, match=rf"model.safetensors: tensor '{UP}' is of type I8"):
        load_model(folder)


def test_a_truncated_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-100])
    with pytest.raises(ValueError, match=rf"{file}: truncated: tensor '.+' ends at byte"):
        load_model(folder)
    file.write_bytes(raw[:50])
    with pytest.raises(ValueError, match=rf"{file}: truncated, or not a safetensors file"):
        load_model(folder)
    for nonsense in (b"not what it should be", b"", b"\x02" + bytes(7) + b"[]"):
        file.write_bytes(nonsense)
        with pytest.raises(ValueError, match=rf"{file}: truncated, or not a safetensors file"):
            load_model(folder)


def test_a_missing_shard(folder: Path) -> None:
    weight_map = shard(folder)
    file = weight_map[UP]
    (folder / file).unlink()
    with pytest.raises(ValueError, match=rf"{file}: the file is missing; .+ says that it holds"):
        load_model(folder)


def test_a_shard_without_what_the_index_says(folder: Path) -> None:
    weight_map = shard(folder)
    file = folder / weight_map[UP]
    tensors = load_file(file)
    del tensors[UP]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=rf"{file}: tensor '{UP}' is missing; .+ says it is here"):
        load_model(folder)


@pytest.mark.parametrize("weight_map", [None, [1], {"a": 1}])
def test_an_index_that_is_none(folder: Path, weight_map: Any) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=r"index.json: weight_map is .+; expected an object"):
        load_model(folder)


def test_folders_that_are_no_model_say_what_is_missing(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"neither model.safetensors nor .+ found pytorch_model.bin"
    ):
        load_model(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.Q4.gguf")
    with pytest.raises(ValueError, match=r"load a .gguf file by its own path"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=f"{folder}: not a model: config.json is missing"):
        load_model(folder)
    with pytest.raises(ValueError, match=f"{tmp_path / 'nowhere'}: no such folder or file"):
        load_model(tmp_path / "nowhere")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(
        ValueError, match=f"{text}: not a model; expected a folder with config.json"
    ):
        load_model(text)


def test_unknown_choices_list_the_known(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'pickle'; known: auto, safetensors, gguf, dummy"):
        load_model(folder, load_format="pickle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown dtype 'int4'; known: fp32"):
        load_model(folder, dtype="int4")
    with pytest.raises(ValueError, match="'fp8' is not supported for weights; supported: auto, bf"):
        load_model(folder, dtype="fp8")
    with pytest.raises(ValueError, match="only the shape is known"):
        load_model("qwen/qwen3-8b")
