"""GGUF files: what llama.cpp wrote comes out as the HuggingFace checkpoint it was made from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import gguf
import pytest
import torch

from policies.model_shape import ModelShape
from runtime.models.rope import Llama3Scaling, Rope, YarnScaling
from runtime.weights.load import load_model
from runtime.weights.names import gguf_views
from simulator.model_file import load_shape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtime.weights.load import LoadedModel

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe"}
TEXTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "1, 2, 3, 4, 5, 6, 7, 8,",
)


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows as llama.cpp's converter orders them for Llama: a head's halves, alternating."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write(
    loaded: LoadedModel,
    path: Path,
    *,
    metadata: dict[str, Any] | None = None,
    extra: dict[str, torch.Tensor] | None = None,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """Write a model as llama.cpp's converter does; `metadata` and `extra` are added or go before."""
    c = loaded.config
    name = ARCHITECTURES[c.model_type]
    writer = gguf.GGUFWriter(path, name)
    writer.add_block_count(c.layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_rope_freq_base(c.rope.theta)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_eos_token_id(c.eos_ids[0])
    if c.experts is not None:
        writer.add_expert_count(c.experts.count)
        writer.add_expert_used_count(c.experts.per_token)
        writer.add_expert_feed_forward_length(c.experts.intermediate_size)
    for key, value in (metadata or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(key if key.startswith("split") else f"{name}.{key}", value)
    for key, view in {**gguf_views(loaded.model), **(extra or {})}.items():
        tensor = view
        if c.model_type == "llama" and ".attn_q." in key:
            tensor = interleaved(view, c.heads)
        if c.model_type == "llama" and ".attn_k." in key:
            tensor = interleaved(view, c.kv_heads)
        values = tensor.contiguous().numpy()
        its_kind = kind if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(key, gguf.quants.quantize(values, its_kind), raw_dtype=its_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_survives_the_way_through_gguf(
    tiny_model: Callable[..., Path], tmp_path: Path, architecture: str, *, tied: bool
) -> None:
    folder = load_model(tiny_model(architecture, tie_word_embeddings=tied))
    loaded = load_model(write(folder, tmp_path / "model.gguf"))
    assert loaded.config.rope == folder.config.rope
    assert loaded.config.experts == folder.config.experts
    assert loaded.config.tied_embeddings == tied
    assert loaded.tokenizer is None
    expected = folder.model.state_dict()
    state = loaded.model.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F16", torch.float16), ("BF16", torch.bfloat16), ("Q8_0", torch.bfloat16)],
)
def test_auto_is_the_stored_type_and_bfloat16_for_quantised_weights(
    tiny_model: Callable[..., Path], tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    folder = load_model(tiny_model("qwen3"))
    path = write(folder, tmp_path / "model.gguf", kind=gguf.GGMLQuantizationType[kind])
    loaded = load_model(path)
    assert loaded.model.dtype == dtype
    error = loaded.model.embedding.float() - folder.model.embedding
    assert 0 < error.std() < 0.02


def test_llama_3s_rope_scaling_is_found_in_its_tensor(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = load_model(tiny_model("llama", head_dim=64, rope_theta=500_000.0))
    scaling = Llama3Scaling(32.0, 1.0, 4.0, 8192)
    plain, scaled = Rope(500_000.0), Rope(500_000.0, scaling)
    divisors = plain.frequencies(64) / scaled.frequencies(64)
    path = write(folder, tmp_path / "a.gguf", extra={"rope_freqs.weight": divisors})
    assert load_model(path).config.rope == scaled
    path = write(folder, tmp_path / "b.gguf", extra={"rope_freqs.weight": divisors.sqrt()})
    with pytest.raises(ValueError, match=r"tensor 'rope_freqs.weight' is not Llama 3's rope"):
        load_model(path)


def test_yarn_is_read_from_the_metadata(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = load_model(tiny_model("qwen3"))
    said = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 128.0,
    }
    scaling = load_model(write(folder, tmp_path / "a.gguf", metadata=said)).config.rope.scaling
    assert scaling == YarnScaling(4.0, 128, YarnScaling.attention_factor_for(4.0))
    said["rope.scaling.type"] = "linear"
    with pytest.raises(ValueError, match=r"rope.scaling.type 'linear' is not supported; supported"):
        load_model(write(folder, tmp_path / "b.gguf", metadata=said))


def test_broken_files_are_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = load_model(tiny_model("qwen2"))
    path = write(folder, tmp_path / "model.gguf")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=rf"{path}: truncated: tensor '.+' ends at byte"):
        load_model(path)
    path.write_bytes(raw[:300])
    with pytest.raises(ValueError, match=rf"{path}: not readable .+ expected a whole GGUF file"):
        load_model(path)
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=rf"{path}: not readable"):
        load_model(path)
    with pytest.raises(ValueError, match=r"nowhere.gguf: no such file"):
        load_model(tmp_path / "nowhere.gguf")


def test_metadata_that_cannot_be_is_refused(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = load_model(tiny_model("qwen3"))
    for i, (key, value, message) in enumerate(
        [
            ("attention.layer_norm_rms_epsilon", -1.0, r"epsilon is -1.0; expected a number above"),
            ("attention.head_count_kv", 3.0, "head_count_kv 3 does not divide head_count 4"),
            ("attention.head_count", 2.5, "head_count is 2.5; expected a whole number"),
            ("rope.dimension_count", 8.0, "rope.dimension_count must be 16, the head dimension"),
            ("split.count", 4.0, r"one of 4.0 parts of a model"),
        ]
    ):
        path = write(folder, tmp_path / f"{i}.gguf", metadata={key: value})
        with pytest.raises(ValueError, match=rf"{path}: .*{message}"):
            load_model(path)


def test_files_that_do_not_fit_their_metadata_are_refused(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = load_model(tiny_model("qwen2"))
    path = write(folder, tmp_path / "a.gguf", extra={"blk.9.ffn_up.weight": torch.zeros(96, 64)})
    with pytest.raises(ValueError, match=rf"{path}: tensor 'blk.9.ffn_up.weight' belongs nowhere"):
        load_model(path)
    path = write(folder, tmp_path / "b.gguf", extra={"blk.1.ffn_up.weight": torch.zeros(97, 64)})
    with pytest.raises(ValueError, match=rf"{path}: tensor 'blk.1.ffn_up.weight' has shape"):
        load_model(path)
    deeper = load_model(tiny_model("qwen2", num_hidden_layers=3))
    del deeper.model.layers[2:]  # type: ignore[attr-defined]
    path = write(deeper, tmp_path / "c.gguf")
    with pytest.raises(
        ValueError, match=rf"{path}: tensor 'blk.2.attn_norm.weight' \(and \d+ more"
    ):
        load_model(path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    message = "architecture 'mamba' is not supported; supported: llama, qwen2, qwen3, qwen3moe"
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model.gguf")


@pytest.mark.weights
def test_smollm2_equals_transformers_own_loader(
    smollm2: Path, dense_attend: Callable[..., Any]
) -> None:
    loaded = load_model(smollm2, dtype="fp32")
    theirs = _by_transformers(smollm2)
    assert loaded.tokenizer is not None
    for text in TEXTS:
        ids = torch.tensor(loaded.tokenizer.encode(text))
        with torch.inference_mode():
            ours = loaded.model.logits(loaded.model(ids, torch.arange(len(ids)), dense_attend))
            expected = theirs(ids[None]).logits[0]
        assert torch.equal(ours.argmax(-1), expected.argmax(-1))
        torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)


def _by_transformers(path: Path) -> Any:
    """A GGUF's model by transformers' reader; `from_pretrained` would want another package."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    read: Any = load_gguf_checkpoint
    make: Any = AutoModelForCausalLM.from_config
    model = make(AutoConfig.for_model(**read(path)["config"]), dtype=torch.float32).eval()
    tensors = read(path, return_tensors=True, model_to_load=model)["tensors"]
    assert model.load_state_dict(tensors, strict=False).missing_keys == ["lm_head.weight"]  # tied
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_simulator_reads_the_shape_that_the_checkpoint_has(
    tiny_model: Callable[..., Path], tmp_path: Path, architecture: str, tied: bool
) -> None:
    # Q8_0 holds rows of a multiple of 32
    folder = tiny_model(architecture, tie_word_embeddings=tied, moe_intermediate_size=64)
    loaded = load_model(folder)
    path = write(loaded, tmp_path / "model.gguf")
    shape = load_shape(path)
    assert shape.name == "model"
    assert dataclasses.replace(shape, name=folder.name) == ModelShape.load(folder)
    assert shape.parameters == sum(p.numel() for p in loaded.model.parameters())
    kind = gguf.GGMLQuantizationType.Q8_0
    quantised = load_shape(write(loaded, tmp_path / "q.gguf", kind=kind))
    assert (quantised.dtype, quantised.parameters) == ("bfloat16", shape.parameters)


def test_what_the_simulator_cannot_read_of_a_gguf_is_said(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"architecture 'mamba' is not supported; .*llama, qwen2"):
        load_shape(tmp_path / "model.gguf")
    (tmp_path / "other.gguf").write_bytes(b"\x80 no such file")
    with pytest.raises(ValueError, match=r"other.gguf: not readable .* expected a whole GGUF"):
        load_shape(tmp_path / "other.gguf")
    with pytest.raises(ValueError, match=r"unknown model '.*/nope.gguf'"):
        load_shape(tmp_path / "nope.gguf")
    with pytest.raises(ValueError, match=r"other.gguf: holds no text; expected a config.json"):
        ModelShape.load(tmp_path / "other.gguf")
