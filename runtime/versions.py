"""What software a run was made with, for its manifest."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch


def versions(device: torch.device) -> dict[str, str | None]:
    """Versions by name; of CUDA and its driver where the device is one of its."""
    found: dict[str, str | None] = {
        "schedtwin": _of("schedtwin"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    for package in ("triton", "flashinfer-python"):
        found[package] = _of(package)
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda
        found["driver"] = _driver()
    return found


def _of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    """The NVIDIA driver's version, as the kernel module says it."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as lines:  # noqa: PTH123
            words = lines.readline().split()
    except OSError:
        return None
    return next((word for word in words if word.count(".") >= 1 and word[0].isdigit()), None)
