"""A GGUF file (llama.cpp's format): its metadata, and its tensors, dequantised.

llama.cpp stores the query and key rows of Llama models interleaved, for a rotary embedding that
turns neighbours; here a head's halves are turned, as in HuggingFace checkpoints, so those rows are
put back. The other architectures are stored as they are.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch

from runtime.weights.fill import Stored

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from runtime.models.config import ModelConfig

UNQUANTISED = {
    gguf.GGMLQuantizationType.F32: "float32",
    gguf.GGMLQuantizationType.F16: "float16",
    gguf.GGMLQuantizationType.BF16: "bfloat16",
}


class _Reader(gguf.GGUFReader):
    """gguf's reader, which names the tensor where a file ends too early."""

    path: Path

    def _build_tensors(self, start_offs: int, fields: list[gguf.ReaderField]) -> None:
        size = len(self.data)
        for field in fields:
            *_, dims, kind, offset = field.parts
            block, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(int(kind[0]))]
            end = start_offs + int(offset[0]) + int(np.prod(dims)) // block * width
            if end > size:
                msg = f"truncated: tensor {field.name!r} ends at byte {end:,} of a file of {size:,}"
                raise ValueError(msg)
        super()._build_tensors(start_offs, fields)


class GGUFFile:
    """An opened GGUF file.

    Attributes:
        path: of the file.
        metadata: its key-value pairs.
    """

    def __init__(self, path: Path) -> None:
        """Open a file; nothing of its tensors is read.

        Raises:
            ValueError: not a GGUF file, or a truncated one (names the first tensor cut off).
        """
        self.path = path
        try:
            self._reader = _Reader(path)
        except (ValueError, IndexError) as error:
            what = str(error) if "truncated: tensor" in str(error) else f"not readable ({error})"
            msg = f"{path}: {what}; expected a whole GGUF file"
            raise ValueError(msg) from error
        self.metadata: dict[str, Any] = {
            key: field.contents()
            for key, field in self._reader.fields.items()
            if not key.startswith("GGUF.")
        }
        parts = self.metadata.get("split.count", 1)
        if parts > 1:
            msg = (
                f"{path}: one of {parts} parts of a model; join them with llama-gguf-split --merge"
            )
            raise ValueError(msg)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, rows first; None if there is no such tensor."""
        for tensor in self._reader.tensors:
            if tensor.name == name:
                return _shape(tensor)
        return None

    def values(self, name: str) -> Tensor:
        """A tensor, dequantised to float32."""
        return _read(next(t for t in self._reader.tensors if t.name == name), self.path)

    def dtype(self) -> str:
        """The type its matrices are stored in; bfloat16 where they are quantised."""
        kinds = {t.tensor_type for t in self._reader.tensors if len(t.shape) > 1}
        named = {UNQUANTISED.get(kind, "bfloat16") for kind in kinds}
        return named.pop() if len(named) == 1 else "bfloat16"

    def stored_tensors(self, config: ModelConfig) -> list[Stored]:
        """Every tensor of the file, with rows in the order of HuggingFace checkpoints."""
        stored = []
        for tensor in self._reader.tensors:
            heads = _interleaved_heads(tensor.name, config)
            read = partial(_read, tensor, self.path, heads)
            stored.append(Stored(tensor.name, str(self.path), _shape(tensor), read))
        return stored


def _shape(tensor: gguf.ReaderTensor) -> tuple[int, ...]:
    return tuple(int(n) for n in reversed(tensor.shape))


def _interleaved_heads(name: str, config: ModelConfig) -> int | None:
    """How many heads' rows of a tensor are interleaved; None for most tensors."""
    if config.model_type != "llama":
        return None
    kind = name.split(".")[2:3]
    return config.heads if kind == ["attn_q"] else config.kv_heads if kind == ["attn_k"] else None


def _read(tensor: gguf.ReaderTensor, path: Path, heads: int | None = None) -> Tensor:
    try:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        msg = f"{path}: tensor {tensor.name!r} is stored as {tensor.tensor_type.name}: {error}"
        raise ValueError(msg) from error
    values = np.array(values, dtype=np.float32)  # a copy: the file is mapped read-only
    if heads is not None:
        pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    return torch.from_numpy(np.ascontiguousarray(values))
