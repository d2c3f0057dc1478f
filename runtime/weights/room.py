"""Whether a model's weights fit where they are to go, told before memory is taken.

A host that runs out of memory swaps for minutes or ends the process without a word; a GPU says so only
after the weights have been read. What else a model needs (KV, activations) is `runtime.memory`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from runtime.memory import free_bytes
from runtime.models.decoder import Decoder

if TYPE_CHECKING:
    from runtime.models.config import ModelConfig

_GIB: Final = 1 << 30


def empty_model(
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    source: str,
    free: int | None = None,
) -> Decoder:
    """A model whose weights are yet to be filled.

    Args:
        config: what it is built from.
        dtype: of its weights.
        device: where they go.
        source: what to call the model in an error.
        free: bytes that are free there; None looks.

    Raises:
        ValueError: where the weights take more than that; says both figures and what would help.
    """
    device = torch.device(device)
    needed = weight_bytes(config, dtype)
    if free is None:
        free = free_bytes(device)
    if needed > free:
        narrower = ", a narrower model.weight_dtype (bf16, fp16)" if dtype.itemsize > 2 else ""
        elsewhere = "a GPU" if device.type == "cpu" else "a larger GPU"
        raise ValueError(
            f"{source}: its weights take {needed / _GIB:.1f} GiB in {str(dtype).removeprefix('torch.')}, "
            f"and {free / _GIB:.1f} GiB are free on {device}; free some, or take a smaller "
            f"model{narrower} or {elsewhere} (runtime.device)"
        )
    return Decoder(config, dtype=dtype, device=device)


def weight_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of all weights; ties are counted once."""
    model = Decoder(config, dtype=dtype, device="meta")
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
