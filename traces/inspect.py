"""What a workload holds: its rate, burstiness and lengths, and how much of it a cache could reuse.

Prefix sharing is counted in blocks, without a model or a scheduler: requests come one at a time,
each enters the cache whole the moment it arrives, and outputs are not cached. So the endless
cache's hit ratio is what a prefix cache can save of the prompt tokens at most, and the LRU ratios
are what that many blocks would save of them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

import numpy as np

from traces.tokens import BlockTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from traces.tokens import Tokens
    from traces.workload import TraceRequest, Workload

LRU_BLOCKS = (1_000, 3_000, 10_000, 30_000, 100_000)
_WINDOWS_S = (1, 10, 60)
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LengthSummary:
    """Lengths in tokens; percentiles interpolate linearly."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """What `inspect` found. None where a figure needs more, or more varied, requests.

    Attributes:
        name: of the workload.
        requests: how many.
        span_s: from the first arrival to the last.
        rate_per_s: requests per second of the span.
        interarrival_cv: standard deviation of the times between arrivals over their mean; 1 for a
            Poisson process.
        dispersion: variance over mean of the arrivals per window of 1, 10 and 60 s; 1 for a Poisson
            process. Whole windows from the first arrival on; at least two.
        input: prompt lengths.
        output: output lengths.
        spearman_in_out: rank correlation of the two.
        block_size: tokens per block of the figures that follow.
        unique_blocks: different blocks, the last, partial one of a prompt counted.
        block_references: blocks of all prompts.
        used_once: share of the different blocks that one request alone refers to.
        with_hit: share of requests whose first block was seen before.
        input_tokens: of all prompts.
        output_tokens: of all outputs.
        endless_hit_ratio: share of prompt tokens in the longest prefix seen before.
        lru_hit_ratio: the same for LRU caches, by their size in blocks.
    """

    name: str
    requests: int
    span_s: float
    rate_per_s: float | None
    interarrival_cv: float | None
    dispersion: dict[int, float | None]
    input: LengthSummary
    output: LengthSummary
    spearman_in_out: float | None
    block_size: int
    unique_blocks: int
    block_references: int
    used_once: float
    with_hit: float
    input_tokens: int
    output_tokens: int
    endless_hit_ratio: float
    lru_hit_ratio: dict[int, float]

    def to_dict(self) -> dict[str, object]:
        """JSON values; windows and cache sizes become string keys."""
        values = asdict(self)
        for name in ("dispersion", "lru_hit_ratio"):
            values[name] = {str(key): value for key, value in values[name].items()}
        return values

    def table(self) -> list[tuple[str, str]]:
        """Label and value of each row to print."""

        def lengths(one: LengthSummary) -> str:
            shown = (one.mean, one.p50, one.p90, one.p99, one.max)
            return " / ".join(f"{value:,.0f}" for value in shown)

        return [
            ("requests", f"{self.requests:,}"),
            ("span", f"{self.span_s:,.1f} s"),
            ("rate", _number(self.rate_per_s, "requests/s")),
            ("inter-arrival CV", _number(self.interarrival_cv)),
            *(
                (f"count dispersion at {window} s", _number(value))
                for window, value in self.dispersion.items()
            ),
            ("input mean / p50 / p90 / p99 / max", f"{lengths(self.input)} tokens"),
            ("output mean / p50 / p90 / p99 / max", f"{lengths(self.output)} tokens"),
            ("Spearman input-output", _number(self.spearman_in_out)),
            ("input tokens", f"{self.input_tokens:,}"),
            ("output tokens", f"{self.output_tokens:,}"),
            (
                f"unique / all blocks of {self.block_size}",
                f"{self.unique_blocks:,} / {self.block_references:,}",
            ),
            ("blocks used once", f"{self.used_once:.1%}"),
            ("requests with a hit", f"{self.with_hit:.2%}"),
            ("token hit ratio, endless cache", f"{self.endless_hit_ratio:.4f}"),
            *(
                (f"token hit ratio, LRU of {size:,} blocks", f"{ratio:.4f}")
                for size, ratio in self.lru_hit_ratio.items()
            ),
        ]


def inspect(workload: Workload, *, block_size: int = 512) -> TraceSummary:
    """Summarises a workload; prefix sharing in blocks of `block_size` tokens.

    Raises:
        ValueError: a workload without requests, or a block size below 1.
    """
    if not len(workload):
        raise ValueError(f"workload {workload.name!r} has no requests to inspect")
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1 token, got {block_size}")
    requests = workload.requests
    inputs = np.array([len(request.prompt) for request in requests], dtype=np.int64)
    outputs = np.array([len(request.output) for request in requests], dtype=np.int64)
    arrivals = np.array([request.arrival_ns for request in requests], dtype=np.int64)
    span_s = workload.duration_ns / _NS_PER_S
    prompts = prompt_blocks(requests, block_size)
    uses = Counter(block for blocks in prompts for block in blocks)
    seen: set[int] = set()
    hits = np.array([_look_up_endless(blocks, seen) for blocks in prompts], dtype=np.int64)

    def hit_ratio(blocks_hit: NDArray[np.int64]) -> float:
        return int(np.minimum(blocks_hit * block_size, inputs).sum()) / int(inputs.sum())

    return TraceSummary(
        name=workload.name,
        requests=len(requests),
        span_s=span_s,
        rate_per_s=len(requests) / span_s if span_s else None,
        interarrival_cv=_interarrival_cv(arrivals),
        dispersion={window: _dispersion(arrivals, window) for window in _WINDOWS_S},
        input=_lengths(inputs),
        output=_lengths(outputs),
        spearman_in_out=_spearman(inputs, outputs),
        block_size=block_size,
        unique_blocks=len(uses),
        block_references=uses.total(),
        used_once=sum(1 for count in uses.values() if count == 1) / len(uses),
        with_hit=float((hits > 0).mean()),
        input_tokens=int(inputs.sum()),
        output_tokens=int(outputs.sum()),
        endless_hit_ratio=hit_ratio(hits),
        lru_hit_ratio={size: hit_ratio(lru_hits(prompts, size)) for size in LRU_BLOCKS},
    )


def prompt_blocks(requests: Sequence[TraceRequest], block_size: int) -> list[list[int]]:
    """The blocks of each prompt as small integers: equal where the prefixes up to them are equal.

    Where prompts are named by prefix hashes of that block size, the hashes say which blocks are
    equal; any others are compared by their token ids. Prompts of different cache namespaces share
    nothing. The last, partial block is one too.
    """
    by_hash = all(
        isinstance(request.prompt, BlockTokens) and request.prompt.block_size == block_size
        for request in requests
    )
    names: Callable[[Tokens], Sequence[int | bytes]]
    names = _hash_names if by_hash else lambda tokens: _content_names(tokens, block_size)
    # A block is its parent and its own name, so that sharing is of whole prefixes.
    known: dict[tuple[object, object], int] = {}
    prompts: list[list[int]] = []
    for request in requests:
        parent: object = (request.extra_key, request.lora_id)
        blocks: list[int] = []
        for name in names(request.prompt):
            parent = known.setdefault((parent, name), len(known))
            blocks.append(parent)
        prompts.append(blocks)
    return prompts


def lru_hits(prompts: Sequence[Sequence[int]], capacity: int) -> NDArray[np.int64]:
    """Leading blocks found, per prompt, by an LRU cache of `capacity` blocks.

    A prompt enters the cache whole when it arrives, and its blocks are touched from the last to the
    first, so that leaves leave before the roots they hang on.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    found = np.zeros(len(prompts), dtype=np.int64)
    for row, blocks in enumerate(prompts):
        hits = 0
        for block in blocks:
            if block not in cache:
                break
            hits += 1
        found[row] = hits
        for block in reversed(blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return found


def _look_up_endless(blocks: Sequence[int], seen: set[int]) -> int:
    hits = 0
    for block in blocks:
        if block not in seen:
            break
        hits += 1
    seen.update(blocks)
    return hits


def _hash_names(tokens: Tokens) -> Sequence[int | bytes]:
    names: list[int | bytes] = cast("BlockTokens", tokens).hash_ids.tolist()
    return names


def _content_names(tokens: Tokens, block_size: int) -> Sequence[int | bytes]:
    content = tokens.array().tobytes()
    step = block_size * 4
    return [
        blake2b(content[start : start + step], digest_size=16).digest()
        for start in range(0, len(content), step)
    ]


def _lengths(values: NDArray[np.int64]) -> LengthSummary:
    p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    return LengthSummary(float(values.mean()), p50, p90, p99, int(values.max()))


def _interarrival_cv(arrivals: NDArray[np.int64]) -> float | None:
    gaps = np.diff(arrivals)
    return float(gaps.std() / gaps.mean()) if gaps.any() else None


def _dispersion(arrivals: NDArray[np.int64], window_s: int) -> float | None:
    slot = (arrivals - arrivals[0]) // (window_s * _NS_PER_S)
    whole = int(slot[-1])  # the last window is not over when the trace ends
    if whole < 2:
        return None
    counts = np.bincount(slot[slot < whole], minlength=whole)
    return float(counts.var() / counts.mean())


def _spearman(first: NDArray[np.int64], second: NDArray[np.int64]) -> float | None:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.3f} {unit}".rstrip()
