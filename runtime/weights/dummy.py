"""Random weights, for when only a model's shape matters: speed, memory, scheduling.

Values are normal, never zeros or constants: a device multiplies zeros with less power and so at a
higher clock, and experts would all go to the same few tokens. They are drawn where the model lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from runtime.models.decoder import Decoder


def fill_randomly(model: Decoder, seed: int) -> None:
    """Fill a model with normal values, the same for a seed, dtype and kind of device.

    Matrices have the standard deviation that keeps a unit vector's size (one over the square root of
    their inputs), norms are near one, biases small.
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
        elif name.endswith("bias"):
            parameter.normal_(0.0, 0.02, generator=generator)
        else:
            parameter.normal_(1.0, 0.02, generator=generator)
