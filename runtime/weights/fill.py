"""Filling a model from a checkpoint's tensors, and saying what does not fit.

Whether a tensor is missing, left over or of another shape is one question for all formats; they
differ in names and in how a tensor is read. Everything is compared before anything is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from runtime.weights.names import Views


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it lies in a file.

    Attributes:
        name: in the checkpoint.
        file: that holds it, for errors.
        shape: rows first.
        read: gives the values, on any device and in any floating type.
    """

    name: str
    file: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def fill(views: Views, stored: Sequence[Stored], *, source: str, unused: Sequence[str]) -> None:
    """Write every stored tensor into its view, cast to the view's type.

    Args:
        views: where tensors go, all of which must be filled.
        stored: the checkpoint.
        source: the checkpoint's folder or file, for errors.
        unused: endings of names that a checkpoint may hold without the model using them.

    Raises:
        ValueError: a tensor is missing, belongs nowhere, or has another shape than the config says.
    """
    tensors = {t.name: t for t in stored}
    missing = [name for name in views if name not in tensors]
    if missing:
        msg = f"{source}: tensor {_first(missing)} is missing; the model's config asks for it"
        raise ValueError(msg)
    extra = [n for n in tensors if n not in views and not n.endswith(tuple(unused))]
    if extra:
        file = tensors[extra[0]].file
        msg = f"{file}: tensor {_first(extra)} belongs nowhere in a model of this config"
        raise ValueError(msg)
    for name, view in views.items():
        tensor = tensors[name]
        if tensor.shape != tuple(view.shape):
            msg = (
                f"{tensor.file}: tensor {name!r} has shape {list(tensor.shape)}; the model's config "
                f"asks for {list(view.shape)}"
            )
            raise ValueError(msg)
    for name, view in views.items():
        view.copy_(tensors[name].read())


def _first(names: list[str]) -> str:
    return repr(names[0]) if len(names) == 1 else f"{names[0]!r} (and {len(names) - 1} more)"
