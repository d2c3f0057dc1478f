"""A real run, as far as its files tell: what each request took, what was sent, and with which settings.

Load generators and engines write down different things. What a source does not say is None here, never
a guess; where a reader had to take something as given, its notes say so. Times are whole nanoseconds,
those of arrival from the first request's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traces.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from traces.records.run import Run
    from traces.workload import Workload

LATENCIES = ("ttft", "tpot", "itl", "e2e")


@dataclass(frozen=True, slots=True)
class RealRequest:
    """One request that a real engine answered.

    Attributes:
        id: the same as in the run's workload.
        prompt_tokens: sent.
        output_tokens: received, at least 1.
        arrival_ns: when it was sent, from the first request's; None where only latencies are known.
        ttft_ns: from there to its first token.
        e2e_ns: from there to its last.
        itl_ns: between its tokens (or the chunks in which they were streamed), in order.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    arrival_ns: int | None
    ttft_ns: int | None
    e2e_ns: int | None
    itl_ns: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class RealSeries:
    """What was seen at regular times; arrays (n,), one of them None where it was not watched.

    Attributes:
        time_s: the end of each interval, from the first arrival.
        output_tokens_per_s: sampled in the interval.
        prompt_tokens_per_s: of prompts, in the interval; engines count them when they end or as computed.
        running: requests at its end.
        waiting: requests at its end.
        kv_share: share of the KV memory in use at its end, 0 to 1.
    """

    time_s: NDArray[np.float64]
    output_tokens_per_s: NDArray[np.float64] | None = None
    prompt_tokens_per_s: NDArray[np.float64] | None = None
    running: NDArray[np.float64] | None = None
    waiting: NDArray[np.float64] | None = None
    kv_share: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the engine was run; None where the files do not say.

    Attributes:
        engine: `vllm` or `sglang`.
        version: of the engine.
        model: as the engine was given it.
        device: the GPU, as written down or as the folder is called.
        tensor_parallel: GPUs that a layer is split over.
        data_parallel: ranks, each with a scheduler of its own.
        expert_parallel: whether experts are spread over all GPUs rather than split.
        max_running_requests: at once, of one rank.
        max_batched_tokens: of a step of one rank.
        context_limit: tokens of one request.
        kv_tokens: that the KV memory of one rank holds.
        memory_share: of the GPU's memory that the engine may take.
        page_size: tokens.
        prefix_caching: whether prompts share prefixes.
        overlapped: whether the host schedules ahead of the device.
        order: of the queue, as a config names it.
        link_latency_ns: of one hop between two GPUs.
        link_gigabytes_per_s: 1e9 bytes per second, one way.
    """

    engine: str
    version: str | None = None
    model: str | None = None
    device: str | None = None
    tensor_parallel: int | None = None
    data_parallel: int | None = None
    expert_parallel: bool | None = None
    max_running_requests: int | None = None
    max_batched_tokens: int | None = None
    context_limit: int | None = None
    kv_tokens: int | None = None
    memory_share: float | None = None
    page_size: int | None = None
    prefix_caching: bool | None = None
    overlapped: bool | None = None
    order: str | None = None
    link_latency_ns: float | None = None
    link_gigabytes_per_s: float | None = None


@dataclass(frozen=True)
class RealRun:
    """See the module.

    Attributes:
        name: what to call it.
        source: which kind of file it is from.
        path: where that is.
        requests: those that were answered to their end, in the workload's order.
        workload: what to replay; where only lengths are known, prompts that share nothing.
        engine: its settings, as far as known.
        series: what was watched over time.
        run: its records, where it is a run folder of this project.
        concurrency: the most requests its client had under way at once, if it kept to any.
        failed: requests that were not answered to their end.
        notes: what the files do not say and what stands in for it.
    """

    name: str
    source: str
    path: Path
    requests: tuple[RealRequest, ...]
    workload: Workload
    engine: EngineSettings | None = None
    series: RealSeries | None = None
    run: Run | None = None
    concurrency: int | None = None
    failed: int = 0
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the requests that were answered."""
        return tuple(request.id for request in self.requests)

    def __post_init__(self) -> None:
        """Check what holds of any run, whoever wrote it.

        Raises:
            TraceError: names the run and the request.
        """
        if len(set(self.ids)) < len(self.requests):
            name, times = Counter(self.ids).most_common(1)[0]
            raise TraceError(self.path, f"{times} requests {name!r}", "each by a name of its own")
        for request in self.requests:
            wrong = _wrong(request)
            if wrong:
                found, expected = wrong
                raise TraceError(self.path, f"request {request.id!r} with {found}", expected)

    def latency(self, name: str) -> NDArray[np.float64]:
        """One latency of each request: nanoseconds, float64 of shape (n,), NaN where not known.

        TPOT is the time after the first token over the tokens after it. ITL holds all gaps of all
        requests in one array, empty where they were not recorded.

        Raises:
            ValueError: for an unknown latency; lists the known.
        """
        match name:
            case "ttft":
                return _filled([request.ttft_ns for request in self.requests])
            case "e2e":
                return _filled([request.e2e_ns for request in self.requests])
            case "tpot":
                gaps = np.array([r.output_tokens - 1 for r in self.requests], dtype=np.float64)
                gaps[gaps <= 0] = np.nan
                tpot: NDArray[np.float64] = (self.latency("e2e") - self.latency("ttft")) / gaps
                return tpot
            case "itl":
                known = [np.array(r.itl_ns, np.float64) for r in self.requests if r.itl_ns]
                return np.concatenate(known) if known else np.zeros(0)
        raise ValueError(f"unknown latency {name!r}; known are {', '.join(LATENCIES)}")


def _wrong(request: RealRequest) -> tuple[str, str] | None:
    """What of a request cannot be, and what could."""
    if request.prompt_tokens < 1 or request.output_tokens < 1:
        found = f"{request.prompt_tokens} prompt and {request.output_tokens} output tokens"
        return found, "one of each at least"
    if request.arrival_ns is not None and request.arrival_ns < 0:
        return f"an arrival {-request.arrival_ns} ns before the first", "none before it"
    first, last = request.ttft_ns, request.e2e_ns
    if first is not None and first < 0:
        return f"its first token {-first} ns before it arrived", "it after that"
    if last is not None and last < (first or 0):
        return f"its last token after {last} ns, the first after {first or 0}", "them in this order"
    if request.itl_ns is not None and min(request.itl_ns, default=0) < 0:
        return f"{min(request.itl_ns)} ns between two tokens", "0 or more"
    return None


def _filled(values: Sequence[int | None]) -> NDArray[np.float64]:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
