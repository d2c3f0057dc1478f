"""How long something takes on a device: medians over repeats, the first runs left out."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UPS = 3


def seconds(run: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """The median; on CUDA between two events around each run."""
    for _ in range(WARM_UPS):
        run()
    if device.type != "cuda":
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            run()
            taken.append(time.perf_counter() - began)
        return median(taken)
    torch.cuda.synchronize(device)
    pairs = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        pairs.append((start, stop))
    torch.cuda.synchronize(device)
    return median(float(start.elapsed_time(stop)) / 1e3 for start, stop in pairs)
