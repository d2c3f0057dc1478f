"""A path in, a model with its weights and tokenizer out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import torch

from policies.model_shape import BUNDLED_FOLDER, bundled_models
from policies.shapes.dtypes import canonical_dtype
from runtime.models.hf_config import read_config
from runtime.weights.fill import fill
from runtime.weights.names import gguf_views, huggingface_views
from runtime.weights.room import empty_model

if TYPE_CHECKING:
    from runtime.models.config import ModelConfig
    from runtime.models.decoder import Decoder
    from runtime.weights.tokenizer import Tokenizer

LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]

_DTYPES: Final = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
_FORMATS: Final = ("auto", "safetensors", "gguf", "dummy")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        model: filled, on its device.
        config: what it was built from.
        tokenizer: None where the checkpoint brings none.
        source: the folder or file it came from, or the bundled config's name.
    """

    model: Decoder
    config: ModelConfig
    tokenizer: Tokenizer | None
    source: str


def load_model(
    path: str | Path,
    *,
    dtype: str = "auto",
    device: torch.device | str = "cpu",
    load_format: LoadFormat = "auto",
    seed: int = 0,
    free: int | None = None,
) -> LoadedModel:
    """Load a model.

    Args:
        path: a HuggingFace folder, a GGUF file; for random weights also a config.json, or a name
            bundled with `policies` (`Qwen/Qwen3-8B`, or `qwen3-8b`).
        dtype: of the weights and of computing: bfloat16, float16, float32, or a short name of these
            (bf16, fp16, fp32). `auto` is the type the checkpoint is kept in; for a GGUF with
            quantised weights, bfloat16.
        device: where the model goes.
        load_format: `auto` tells a folder from a GGUF; `dummy` draws random weights.
        seed: of random weights.
        free: bytes of the device that are free; None looks.

    Raises:
        ValueError: a path that is no model (says what is missing), an unsupported architecture or
            option, weights that take more memory than is free (told before any is taken), or tensors
            that are missing, unexpected, truncated or of the wrong shape, named.
    """
    if load_format not in _FORMATS:
        msg = f"unknown load format {load_format!r}; known: {', '.join(_FORMATS)}"
        raise ValueError(msg)
    _torch_dtype(dtype, "float32")  # a wrong name is said before anything is read
    path = Path(path)
    is_gguf = path.suffix == ".gguf" if load_format in {"auto", "dummy"} else load_format == "gguf"
    if is_gguf:
        return _load_gguf(path, dtype, device, free, seed if load_format == "dummy" else None)
    if load_format == "dummy":
        return _load_dummy(path, dtype, device, free, seed)
    return _load_folder(path, dtype, device, free)


@torch.no_grad()
def _load_folder(
    path: Path, dtype: str, device: torch.device | str, free: int | None
) -> LoadedModel:
    from runtime.weights.folder import stored_tensors

    if not path.exists():
        msg = f"{path}: no such folder or file{_bundled_hint(path)}"
        raise ValueError(msg)
    if not path.is_dir():
        msg = f"{path}: not a model; expected a folder with config.json and safetensors, or a .gguf"
        raise ValueError(msg)
    if not (path / "config.json").is_file():
        msg = f"{path}: not a model: config.json is missing"
        raise ValueError(msg)
    config = read_config(path / "config.json")
    # the files are looked at before memory is taken
    stored = stored_tensors(path, device)
    weights = _torch_dtype(dtype, config.dtype)
    model = empty_model(config, dtype=weights, device=device, source=str(path), free=free)
    unused = ("rotary_emb.inv_freq", *(("lm_head.weight",) if config.tied_embeddings else ()))
    fill(huggingface_views(model), stored, source=str(path), unused=unused)
    return LoadedModel(model, config, _folder_tokenizer(path, config), str(path))


@torch.no_grad()
def _load_gguf(
    path: Path, dtype: str, device: torch.device | str, free: int | None, seed: int | None
) -> LoadedModel:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    from runtime.weights.gguf import GGUFFile
    from runtime.weights.gguf_config import ROPE_FREQUENCIES, gguf_config
    from runtime.weights.gguf_tokenizer import gguf_tokenizer

    file = GGUFFile(path)
    config = gguf_config(file)
    weights = _torch_dtype(dtype, config.dtype)
    model = empty_model(config, dtype=weights, device=device, source=str(path), free=free)
    if seed is None:
        stored = file.stored_tensors(config)
        fill(gguf_views(model), stored, source=str(path), unused=(ROPE_FREQUENCIES,))
    else:
        _fill_randomly(model, seed)
    return LoadedModel(model, config, gguf_tokenizer(file, config), str(path))


@torch.no_grad()
def _load_dummy(
    path: Path, dtype: str, device: torch.device | str, free: int | None, seed: int
) -> LoadedModel:
    file, folder = path, None
    if path.is_dir():
        file, folder = path / "config.json", path
        if not file.is_file():
            raise ValueError(f"{path}: not a model: config.json is missing")
    elif not path.is_file():
        file = _bundled(path)
    config = read_config(file)
    weights = _torch_dtype(dtype, config.dtype)
    model = empty_model(config, dtype=weights, device=device, source=str(path), free=free)
    _fill_randomly(model, seed)
    tokenizer = None if folder is None else _folder_tokenizer(folder, config)
    return LoadedModel(model, config, tokenizer, str(path))


def _fill_randomly(model: Decoder, seed: int) -> None:
    from runtime.weights.dummy import fill_randomly

    fill_randomly(model, seed)


def _folder_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer | None:
    from runtime.weights.tokenizer import folder_tokenizer

    return folder_tokenizer(folder, config)


def _torch_dtype(dtype: str, stored: str) -> torch.dtype:
    name = stored if dtype == "auto" else canonical_dtype(dtype)
    if name not in _DTYPES:
        known = ", ".join(_DTYPES)
        msg = f"dtype {dtype!r} is not supported for weights; supported: auto, {known}"
        raise ValueError(msg)
    return _DTYPES[name]


def _bundled(path: Path) -> Path:
    """The config of a bundled name, whole or by its last part, without regard to case."""
    wanted = path.as_posix().lower()
    for name in bundled_models():
        if wanted in {name.lower(), name.rpartition("/")[2].lower()}:
            return BUNDLED_FOLDER / (name.replace("/", "--") + ".json")
    msg = (
        f"{path}: not a folder with config.json, not a file, and not one of the bundled models: "
        f"{', '.join(bundled_models())}"
    )
    raise ValueError(msg)


def _bundled_hint(path: Path) -> str:
    try:
        _bundled(path)
    except ValueError:
        return ""
    return "; of the bundled model of this name only the shape is known (load_format 'dummy')"
