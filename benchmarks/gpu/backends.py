"""Each attention backend, one layer at a time; see `benchmarks.attention`.

A backend that cannot work here says why and the others go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks.attention import GPU_CASES, HEADS, Case, measure, work
from runtime.attention.choose import AttentionChoiceError

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place

TINY_CASES = [Case("decode, 2 of 32", [(31, 1)] * 2), Case("extend, one of 32", [(0, 32)])]


def run(place: Place) -> None:
    """See the module."""
    model = place.size(1, 0)
    name, heads = list(HEADS.items())[model]
    dtype = torch.float32 if place.tiny else torch.bfloat16
    place.note("model", name)
    for backend in ("torch", "reference") if place.tiny else ("flashinfer", "triton", "torch"):
        figures: dict[str, Any] = {}
        for case in TINY_CASES if place.tiny else GPU_CASES:
            nbytes, operations = work(case, heads, dtype.itemsize)
            try:
                taken = measure(backend, case, heads, dtype, place.device)
            except AttentionChoiceError as error:
                figures = {"cannot work here": str(error)}
                break
            except (RuntimeError, ImportError, OSError) as error:  # a kernel that does not build
                figures[case.name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
                if isinstance(error, torch.AcceleratorError):
                    raise  # nothing more can be measured in this process
                continue
            figures[case.name] = {
                "us_per_layer": taken * 1e6,
                "bytes_per_s": nbytes / taken,
                "flop_per_s": operations / taken,
            }
        place.note(backend, figures)
