"""Sampling: parameters of a request, the batched sampler, and when a sequence ends.

Names are imported when first used, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.sampling.noise import default_seed as default_seed
    from runtime.sampling.output import RequestOutput as RequestOutput
    from runtime.sampling.output import TokenLogprobs as TokenLogprobs
    from runtime.sampling.params import SamplingParams as SamplingParams
    from runtime.sampling.sampler import Sampled as Sampled
    from runtime.sampling.sampler import Sampler as Sampler
    from runtime.sampling.stops import Stops as Stops

_EXPORTS = {
    "RequestOutput": "runtime.sampling.output",
    "Sampled": "runtime.sampling.sampler",
    "Sampler": "runtime.sampling.sampler",
    "SamplingParams": "runtime.sampling.params",
    "Stops": "runtime.sampling.stops",
    "TokenLogprobs": "runtime.sampling.output",
    "default_seed": "runtime.sampling.noise",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605 - a list, made from the table


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        msg = f"module 'runtime.sampling' has no attribute {name!r}"
        raise AttributeError(msg) from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
