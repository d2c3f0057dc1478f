"""Token ids made from numbers: SplitMix64, a counter-based hash, of arrays and of one number.

Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. The ids are the
same in every run and on every platform. What the numbers stand for is for others to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESERVED_IDS = 10  # ids 0..9 are never made: tokenizers keep padding and control tokens there
GOLDEN = 0x9E3779B97F4A7C15
MASK = 2**64 - 1
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def steps(stop: int, start: int = 0) -> NDArray[np.uint64]:
    """What SplitMix64 adds to its seed for the tokens start..stop-1, modulo 2**64."""
    return np.arange(start + 1, stop + 1, dtype=np.uint64) * np.uint64(GOLDEN)


def mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer; works in place on `state` and returns it."""
    state ^= state >> np.uint64(30)
    state *= np.uint64(_MIX_1)
    state ^= state >> np.uint64(27)
    state *= np.uint64(_MIX_2)
    state ^= state >> np.uint64(31)
    return state


def mixed(state: int) -> int:
    """As `mix`, of one Python integer."""
    state ^= state >> 30
    state = state * _MIX_1 & MASK
    state ^= state >> 27
    state = state * _MIX_2 & MASK
    return state ^ (state >> 31)


def id_at(seed: int, at: int, vocab_size: int) -> int:
    """As `to_ids`, of the state at one place of the stream with that seed."""
    high = mixed(seed + (at + 1) * GOLDEN & MASK) >> 32
    return (high * (vocab_size - RESERVED_IDS) >> 32) + RESERVED_IDS


def to_ids(state: NDArray[np.uint64], vocab_size: int) -> NDArray[np.int32]:
    """Token ids from a fresh array of states, by multiply-shift: no division, negligible bias."""
    high = mix(state)
    high >>= np.uint64(32)
    high *= np.uint64(vocab_size - RESERVED_IDS)
    high >>= np.uint64(32)
    ids = high.astype(np.int32)
    ids += np.int32(RESERVED_IDS)
    ids.flags.writeable = False
    return ids
