"""What a workload holds: its rate, burstiness and lengths, its sessions, and what a cache could save.

Prefix sharing is counted in blocks, without a model or a scheduler: requests come one at a time,
each enters the cache whole the moment it arrives, and outputs are not cached. So the endless
cache's hit ratio is what a prefix cache can save of the prompt tokens at most, and the LRU ratios
are what that many blocks would save of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from traces.prefixes import own_block_size, prompt_blocks
from traces.reuse import reuse
from traces.sessions import waits_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traces.reuse import Reuse
    from traces.workload import Workload

LRU_BLOCKS = (1_000, 3_000, 10_000, 30_000, 100_000)
_WINDOWS_S = (1, 10, 60)
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Summary:
    """Lengths in tokens, counts, or seconds; percentiles interpolate linearly."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


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
        sessions: how many there are.
        session_requests: requests of a session.
        wait_s: seconds that requests wait after the answers they depend on.
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
    input: Summary
    output: Summary
    spearman_in_out: float | None
    sessions: int
    session_requests: Summary | None
    wait_s: Summary | None
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
        """Label and value of each row to print; the rows are the same for every trace."""

        def spread(one: Summary | None, unit: str = "") -> str:
            if one is None:
                return "-"
            shown = (one.mean, one.p50, one.p90, one.p99, one.max)
            return (" / ".join(f"{value:,.0f}" for value in shown) + f" {unit}").rstrip()

        spreads = "mean / p50 / p90 / p99 / max"
        return [
            ("requests", f"{self.requests:,}"),
            ("span", f"{self.span_s:,.1f} s"),
            ("rate", _number(self.rate_per_s, "requests/s")),
            ("inter-arrival CV", _number(self.interarrival_cv)),
            *(
                (f"count dispersion at {window} s", _number(value))
                for window, value in self.dispersion.items()
            ),
            (f"input {spreads}", spread(self.input, "tokens")),
            (f"output {spreads}", spread(self.output, "tokens")),
            ("Spearman input-output", _number(self.spearman_in_out)),
            ("input tokens", f"{self.input_tokens:,}"),
            ("output tokens", f"{self.output_tokens:,}"),
            ("sessions", f"{self.sessions:,}" if self.sessions else "-"),
            (f"requests a session {spreads}", spread(self.session_requests)),
            (f"wait {spreads}", spread(self.wait_s, "s")),
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


@dataclass(frozen=True, slots=True)
class Measured:
    """A workload as numbers, one per request, session or wait.

    Attributes:
        name: of the workload.
        arrivals: ns; int64, shape (requests,).
        inputs: tokens; int64, shape (requests,).
        outputs: tokens; int64, shape (requests,).
        session_requests: requests of each session; int64, shape (sessions,).
        waits_s: seconds after the answers that a request depends on; float64, shape (requests that
            do,).
        reuse: what caches would find.
    """

    name: str
    arrivals: NDArray[np.int64]
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    session_requests: NDArray[np.int64]
    waits_s: NDArray[np.float64]
    reuse: Reuse

    @property
    def gaps_s(self) -> NDArray[np.float64]:
        """Seconds between arrivals."""
        return np.diff(self.arrivals) / _NS_PER_S

    def summary(self) -> TraceSummary:
        """The figures to print."""
        span_s = int(self.arrivals[-1] - self.arrivals[0]) / _NS_PER_S
        found, uses = self.reuse, self.reuse.uses
        return TraceSummary(
            name=self.name,
            requests=len(self.arrivals),
            span_s=span_s,
            rate_per_s=len(self.arrivals) / span_s if span_s else None,
            interarrival_cv=_interarrival_cv(self.arrivals),
            dispersion={window: _dispersion(self.arrivals, window) for window in _WINDOWS_S},
            input=_summary(self.inputs),
            output=_summary(self.outputs),
            spearman_in_out=_spearman(self.inputs, self.outputs),
            sessions=len(self.session_requests),
            session_requests=_summary(self.session_requests)
            if len(self.session_requests)
            else None,
            wait_s=_summary(self.waits_s) if len(self.waits_s) else None,
            block_size=found.block_size,
            unique_blocks=len(uses),
            block_references=int(uses.sum()),
            used_once=float((uses == 1).mean()),
            with_hit=float((found.hits() > 0).mean()),
            input_tokens=int(self.inputs.sum()),
            output_tokens=int(self.outputs.sum()),
            endless_hit_ratio=found.hit_ratio(),
            lru_hit_ratio={size: found.hit_ratio(size) for size in LRU_BLOCKS},
        )


def inspect(workload: Workload, *, block_size: int | None = None) -> TraceSummary:
    """Summarises a workload.

    Args:
        workload: at least one request.
        block_size: tokens per block in which prefix sharing is counted; by default those of the
            prefix hashes that name the prompts, or 512.

    Raises:
        ValueError: a workload without requests, or a block size below 1.
    """
    return measure(workload, block_size=block_size).summary()


def measure(workload: Workload, *, block_size: int | None = None) -> Measured:
    """A workload as numbers; takes and raises what `inspect` does."""
    requests = workload.requests
    if not requests:
        raise ValueError(f"workload {workload.name!r} has no requests to inspect")
    if block_size is None:
        block_size = own_block_size(requests)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1 token, got {block_size}")
    inputs = np.array([len(request.prompt) for request in requests], dtype=np.int64)
    sessions = Counter(request.session for request in requests if request.session is not None)
    waits = [request.delay_ns for request in requests if waits_for(request)]
    return Measured(
        name=workload.name,
        arrivals=np.array([request.arrival_ns for request in requests], dtype=np.int64),
        inputs=inputs,
        outputs=np.array([len(request.output) for request in requests], dtype=np.int64),
        session_requests=np.array([*sessions.values()], dtype=np.int64),
        waits_s=np.array(waits, dtype=np.int64) / _NS_PER_S,
        reuse=reuse(prompt_blocks(requests, block_size), inputs, block_size),
    )


def _summary(values: NDArray[np.int64] | NDArray[np.float64]) -> Summary:
    p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    return Summary(float(values.mean()), p50, p90, p99, values.max().item())


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
