"""Which attention backend: by name, or the best that works here, with the reason said aloud.

A backend's package is imported only when the backend is chosen. What each needs is known here, so
that a wish that cannot be met is refused at the start, and not by a kernel in the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.attention.base import BackendFactory

_CLASSES = {
    "flashinfer": ("runtime.attention.flashinfer_backend", "FlashInferAttention"),
    "triton": ("runtime.attention.triton_backend", "TritonAttention"),
    "torch": ("runtime.attention.torch_backend", "TorchAttention"),
    "reference": ("runtime.attention.reference", "ReferenceAttention"),
}
NAMES = ("auto", *_CLASSES)
FLASHINFER_HEAD_DIMS = (64, 128, 256)
TRITON_MAX_HEAD_DIM = 256
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class AttentionChoiceError(ValueError):
    """The attention backend asked for is unknown, or cannot work here; the message says why."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend chosen.

    Attributes:
        name: which.
        reason: one line, for a log or a manifest.
        build: makes it for a cache.
    """

    name: str
    reason: str
    build: BackendFactory


def choose(
    name: str, device: torch.device | str, head_dim: int, dtype: torch.dtype, page_size: int
) -> Choice:
    """Choose a backend.

    Args:
        name: `auto`, or the name of one.
        device: where the cache lies.
        head_dim: elements of one head.
        dtype: of queries, keys and values.
        page_size: tokens a page.

    Raises:
        AttentionChoiceError: an unknown name, or a named backend that cannot work here.
    """
    device = torch.device(device)
    if dtype not in DTYPES:
        known = ", ".join(str(one).removeprefix("torch.") for one in DTYPES)
        msg = f"attention cannot compute in {str(dtype).removeprefix('torch.')}; known: {known}"
        raise AttentionChoiceError(msg)
    if page_size < 1:
        msg = f"page_size must be at least 1, got {page_size}"
        raise AttentionChoiceError(msg)
    if name == "auto":
        return _choose_best(device, head_dim, dtype)
    if name not in _CLASSES:
        msg = f"unknown attention backend {name!r}; known: {', '.join(NAMES)}"
        raise AttentionChoiceError(msg)
    obstacle = _obstacle(name, device, head_dim, dtype)
    if obstacle is not None:
        msg = f"attention backend {name!r} cannot work here: {obstacle}"
        raise AttentionChoiceError(msg)
    return Choice(name, f"{name}: asked for", _factory(name))


def _choose_best(device: torch.device, head_dim: int, dtype: torch.dtype) -> Choice:
    """The first of flashinfer, triton and torch that works here; elsewhere than on CUDA, torch."""
    if device.type != "cuda":
        reason = f"torch: the others need CUDA, and the device is {device.type}"
        return Choice("torch", reason, _factory("torch"))
    passed_over: list[str] = []
    for name in ("flashinfer", "triton"):
        obstacle = _obstacle(name, device, head_dim, dtype)
        if obstacle is None:
            return Choice(
                name, "; ".join([f"{name}: the fastest here", *passed_over]), _factory(name)
            )
        passed_over.append(f"not {name}: {obstacle}")
    return Choice(
        "torch", "; ".join(["torch: all that works here", *passed_over]), _factory("torch")
    )


def _obstacle(name: str, device: torch.device, head_dim: int, dtype: torch.dtype) -> str | None:
    """What keeps a backend from working here, and what would be right; None if nothing does."""
    checks: dict[str, Callable[[], str | None]] = {
        "flashinfer": lambda: _flashinfer_obstacle(device, head_dim, dtype),
        "triton": lambda: _triton_obstacle(device, head_dim),
    }
    return checks[name]() if name in checks else None


def _flashinfer_obstacle(device: torch.device, head_dim: int, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"it needs a CUDA device, and this one is {device.type}"
    if head_dim not in FLASHINFER_HEAD_DIMS:
        known = ", ".join(map(str, FLASHINFER_HEAD_DIMS))
        return f"it has kernels for head_dim {known}, and this model's is {head_dim}"
    if dtype == torch.float32:
        return "it has kernels for bfloat16 and float16, and this dtype is float32"
    return _missing("flashinfer", "flashinfer-python")


def _triton_obstacle(device: torch.device, head_dim: int) -> str | None:
    if head_dim > TRITON_MAX_HEAD_DIM:
        return f"its kernels take head_dim up to {TRITON_MAX_HEAD_DIM}, and this one is {head_dim}"
    missing = _missing("triton", "triton")
    if missing is not None or device.type == "cuda":
        return missing
    from triton import knobs

    if device.type == "cpu" and knobs.runtime.interpret:
        return None
    return (
        f"it needs a CUDA device, and this one is {device.type} "
        "(TRITON_INTERPRET=1 runs its kernels on the CPU, for tests)"
    )


def _missing(module: str, package: str) -> str | None:
    if find_spec(module) is None:
        return f"the package {module} is not installed (pip install {package})"
    try:
        import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # a build for another CUDA, say
        return f"importing {module} failed: {error}"
    return None


def _factory(name: str) -> BackendFactory:
    module, attribute = _CLASSES[name]
    return cast("BackendFactory", getattr(import_module(module), attribute))
