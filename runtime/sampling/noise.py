"""Random numbers that depend on nothing but a request's seed and a token's position.

There is no generator with a state: the number for (seed, position) is a hash of the two, computed by
the device. So a token does not depend on what else is in its batch, nor on its row, nor on whether
it is computed a second time after a retraction, and the CPU and CUDA agree to the bit.

The hash is SplitMix64's output function (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, 2014) over a seed that went through it once and the position times its increment.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_BITS = 2**64
_INCREMENT = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def default_seed(engine_seed: int, request: str | int) -> int:
    """The seed of a request that gives none: of the engine's seed and the request's id or number."""
    kind = "id" if isinstance(request, str) else "number"
    text = f"{engine_seed}\0{kind}\0{request}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def as_int64(value: int) -> int:
    """The signed 64-bit integer with the lowest 64 bits of `value`."""
    return (value + 2**63) % _BITS - 2**63


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """Numbers in [0, 1), one for each seed and position.

    Args:
        seeds: int64 (n,).
        positions: int64 (n,).

    Returns:
        float64 (n,): multiples of 2**-53.
    """
    state = _mixed(seeds) + (positions + 1) * as_int64(_INCREMENT)
    return _shifted(_mixed(state), 11).double().mul_(2.0**-53)


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's output function; int64 products wrap as unsigned ones do."""
    x = (x ^ _shifted(x, 30)) * as_int64(_FIRST)
    x = (x ^ _shifted(x, 27)) * as_int64(_SECOND)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifted right as if unsigned: torch's shift repeats the sign."""
    return (x >> bits).bitwise_and(2 ** (64 - bits) - 1)
