"""Recorded runs over batch compositions: what a calibrated latency model is fitted to.

Each run is phases of requests, every phase sent when all of the one before have ended: decode over
batch sizes and contexts, even and skewed, prefill over lengths, and both mixed under two chunk sizes.
The last run is of another kind of workload, to hold out. The run folders stay beside the result.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.load import phases

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place

    Lengths = list[tuple[int, int]]

MOST_TOKENS = 400_000  # of a phase, so that it fits the pool


def run(place: Place) -> None:
    """See the module."""
    mixed = {"batching": "mixed"}
    large, small = place.size(2048, 64), place.size(512, 32)
    whole = place.size(8192, 256)
    variants: dict[str, tuple[list[Lengths], dict[str, Any]]] = {
        "even": (even(place), {"chunked_prefill_size": whole}),
        "skewed": (skewed(place, 1), {"chunked_prefill_size": whole}),
        "mixed-large": (skewed(place, 2), {**mixed, "chunked_prefill_size": large}),
        "mixed-small": (skewed(place, 3), {**mixed, "chunked_prefill_size": small}),
        "held-out": (chats(place), {"chunked_prefill_size": whole}),
    }
    for name, (work, policy) in variants.items():
        config = place.config(kv=None, policy=policy)
        done = place.recorded(
            name, phases(work, seed=len(name)), config, decisions=name == "held-out"
        )
        steps = done.steps
        modes = {str(mode): int(n) for mode, n in steps["mode"].value_counts().items() if n}
        place.note(name, {"steps": modes, "seconds": round(int(steps["end_ns"].max()) / 1e9, 1)})


def even(place: Place) -> list[Lengths]:
    """Prefill alone over lengths, then decode over batch sizes and contexts."""
    found: list[Lengths] = []
    longest = place.size(16_384, 128)
    length = 16
    while length <= longest:
        found.append([(length, 1)] * max(1, min(4, longest // length)))
        length *= 2
    batches = (1, 4, 16, 32, 64, 128, 256) if not place.tiny else (1, 4)
    contexts = (64, 512, 1024, 4096, 8192) if not place.tiny else (16, 64)
    steps = place.size(24, 4)
    found += [
        [(context, steps)] * batch
        for batch in batches
        for context in contexts
        if batch * context <= MOST_TOKENS // 2
    ]
    return found


def skewed(place: Place, seed: int) -> list[Lengths]:
    """Prompts and outputs of very different lengths together; some phases have one giant among many."""
    rng = random.Random(seed)
    longest, output = place.size(8192, 128), place.size(96, 8)
    found: list[Lengths] = []
    for batch in (4, 16, 64, 128) if not place.tiny else (4,):
        lengths = [int(longest ** rng.uniform(0.4, 1.0)) for _ in range(batch)]
        while sum(lengths) > MOST_TOKENS:
            lengths.pop()
        found.append([(length, rng.randint(2, output)) for length in lengths])
    giant, many = place.size(32_768, 400), place.size(63, 3)
    found.append([(giant, output), *[(place.size(256, 16), output)] * many])
    return found


def chats(place: Place) -> list[Lengths]:
    """Prompts around a thousand tokens and outputs around two hundred, as chat services see them."""
    rng = random.Random(9)
    prompt, output = place.size(1000, 40), place.size(160, 6)
    return [
        [
            (int(prompt * rng.lognormvariate(0, 0.6)) + 1, int(output * rng.uniform(0.2, 1.8)) + 1)
            for _ in range(count)
        ]
        for count in ((24, 96) if not place.tiny else (4,))
    ]
