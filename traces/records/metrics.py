"""A run's metrics, computed from its records alone, as `definitions.METRICS` defines them.

Latencies are of
finished requests (`stop`, `length`); refused, aborted and unfinished ones are counted apart. Does
not know which world wrote the run, and prints nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import fsum
from typing import TYPE_CHECKING, Any

import numpy as np

from traces.records.distribution import STATISTICS, Distribution, describe
from traces.records.itl import ItlAccumulator

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from traces.records.run import Run

NS_PER_MS = 1e6
NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Summary:
    """The metrics of one run, each as `METRICS` defines it; None where the records lack it."""

    requests: int
    finished: int
    refused: int
    aborted: int
    unfinished: int
    cut: int
    retractions: int
    duration_s: float
    requests_per_s: float | None
    input_tokens_per_s: float | None
    output_tokens_per_s: float | None
    total_tokens_per_s: float | None
    concurrency: float | None
    ttft_ms: Distribution | None
    tpot_ms: Distribution | None
    itl_ms: Distribution | None
    e2e_ms: Distribution | None
    queue_ms: Distribution | None
    output_tokens_per_s_per_user: Distribution | None
    cache_hit_ratio: float | None
    kv_use_mean: float | None
    kv_use_max: float | None
    kv_filled_mean: float | None
    kv_filled_max: float | None
    device_busy_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and mappings, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Latencies of the finished requests, in the order of the table, NaN where there is none.

    Arrays (n,) of nanoseconds; differences are taken in whole nanoseconds.
    """

    ttft: NDArray[np.float64]
    tpot: NDArray[np.float64]
    e2e: NDArray[np.float64]


def finished_requests(run: Run) -> pd.DataFrame:
    """The rows of the requests that ran to their end."""
    requests = run.requests
    return requests[requests["finish_reason"].isin(["stop", "length"])]


def request_times(run: Run) -> RequestTimes:
    """TTFT, TPOT and end-to-end latency of each finished request."""
    return times_of(finished_requests(run))


def times_of(done: pd.DataFrame) -> RequestTimes:
    """The same of these rows, each a finished request."""
    gaps = done["output_tokens"].to_numpy(np.float64) - 1
    gaps[gaps <= 0] = np.nan
    return RequestTimes(
        ttft=_between(done, "arrival_ns", "first_token_ns"),
        tpot=_between(done, "first_token_ns", "finish_ns") / gaps,
        e2e=_between(done, "arrival_ns", "finish_ns"),
    )


def summarize(run: Run) -> Summary:
    """The run's metrics, from its requests and, where they were recorded, its steps."""
    requests = run.requests
    done = finished_requests(run)
    reasons = requests["finish_reason"].value_counts()
    refused, aborted = int(reasons["refused"]), int(reasons["abort"])
    times = times_of(done)
    duration_s = _duration_ns(requests) / NS_PER_S
    per_s = (1 / duration_s) if duration_s > 0 else None
    prompt, output = int(done["prompt_tokens"].sum()), int(done["output_tokens"].sum())
    admitted = requests[requests["first_scheduled_ns"].notna()]
    admitted_prompt = int(admitted["prompt_tokens"].sum())
    cut = requests["max_new_tokens"] < requests["requested_max_new_tokens"]

    def rate(amount: float) -> float | None:
        return None if per_s is None else float(amount * per_s)

    return Summary(
        requests=len(requests),
        finished=len(done),
        refused=refused,
        aborted=aborted,
        unfinished=len(requests) - len(done) - refused - aborted,
        cut=int(cut.fillna(value=False).sum()),
        retractions=int(requests["retractions"].sum()),
        duration_s=duration_s,
        requests_per_s=rate(len(done)),
        input_tokens_per_s=rate(prompt),
        output_tokens_per_s=rate(output),
        total_tokens_per_s=rate(prompt + output),
        concurrency=rate(fsum(times.e2e[~np.isnan(times.e2e)]) / NS_PER_S),
        ttft_ms=_in_ms(times.ttft),
        tpot_ms=_in_ms(times.tpot),
        itl_ms=_itl_ms(run, done),
        e2e_ms=_in_ms(times.e2e),
        queue_ms=_in_ms(_between(done, "arrival_ns", "first_scheduled_ns")),
        output_tokens_per_s_per_user=_described(NS_PER_S / times.tpot[times.tpot > 0]),
        cache_hit_ratio=(
            int(admitted["cached_tokens"].sum()) / admitted_prompt if admitted_prompt else None
        ),
        **_from_steps(run, per_s),
    )


def goodput(
    run: Run,
    *,
    ttft_ms: float | None = None,
    tpot_ms: float | None = None,
    e2e_ms: float | None = None,
) -> float:
    """Finished requests per second that met every given limit (AIPerf's goodput).

    DistServe (OSDI '24) calls goodput the highest rate at which a share of requests, such as 90 %,
    still meets the limits; this is the measure that such a search looks at. A request of one token
    has no TPOT and meets any limit on it, where AIPerf would count it out.

    Raises:
        ValueError: where no limit is given, or one is not positive.
    """
    limits = {"ttft": ttft_ms, "tpot": tpot_ms, "e2e": e2e_ms}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    if not given:
        raise ValueError("goodput needs a limit: give ttft_ms, tpot_ms or e2e_ms")
    wrong = [name for name, limit in given.items() if not limit > 0]
    if wrong:
        raise ValueError(f"{wrong[0]}_ms is {given[wrong[0]]}: a limit has to be positive")
    times = request_times(run)
    good = np.ones(len(times.e2e), bool)
    for name, limit in given.items():
        good &= ~(getattr(times, name) > limit * NS_PER_MS)
    duration_ns = _duration_ns(run.requests)
    return int(good.sum()) * NS_PER_S / duration_ns if duration_ns else 0.0


def _between(frame: pd.DataFrame, start: str, end: str) -> NDArray[np.float64]:
    """End minus start in nanoseconds, taken in integers; NaN where either is null."""
    return (frame[end] - frame[start]).to_numpy(dtype=np.float64, na_value=np.nan)


def _duration_ns(requests: pd.DataFrame) -> int:
    ends = requests["finish_ns"].dropna()
    return int(ends.max()) - int(requests["arrival_ns"].min()) if len(ends) else 0


def _described(values: NDArray[np.float64]) -> Distribution | None:
    return describe(values[~np.isnan(values)])


def _in_ms(values_ns: NDArray[np.float64]) -> Distribution | None:
    stats = _described(values_ns)
    return None if stats is None else stats.divided(NS_PER_MS)


def _itl_ms(run: Run, done: pd.DataFrame) -> Distribution | None:
    """From the manifest, where the world gathered it; else from the token times, if recorded."""
    itl: Mapping[str, Any] | None = run.manifest.get("itl")
    if itl is None:
        if "token_times_ns" not in done.columns:
            return None
        itl = itl_of_token_times(done).summary()
    if not itl["count"]:
        return None
    stats = {name: itl[f"{name}_ns"] for name in STATISTICS}
    return Distribution(count=int(itl["count"]), **stats).divided(NS_PER_MS)


def itl_of_token_times(done: pd.DataFrame) -> ItlAccumulator:
    """The gaps between the recorded token times of these requests."""
    gathered = ItlAccumulator()
    for times in done["token_times_ns"]:
        instants: NDArray[np.int64] = np.asarray(times, np.int64)
        gathered.add_many(instants[1:] - instants[:-1])
    return gathered


def _from_steps(run: Run, per_s: float | None) -> dict[str, float | None]:
    names = ("kv_use_mean", "kv_use_max", "kv_filled_mean", "kv_filled_max", "device_busy_share")
    nothing: dict[str, float | None] = dict.fromkeys(names)
    if not run.has("steps") or len(run.steps) == 0:
        return nothing
    steps = run.steps
    if per_s is not None:
        busy_ns = int((steps["end_ns"] - steps["start_ns"]).sum())
        nothing["device_busy_share"] = busy_ns / NS_PER_S * per_s
    capacity = run.manifest.get("kv_capacity_tokens")
    if not capacity:
        return nothing
    launch, commit = steps["launch_ns"].to_numpy(), steps["commit_ns"].to_numpy()
    until = np.minimum(commit, np.append(launch[1:], commit[-1:]))
    held_for = np.maximum(until - launch, 0)
    filled = (capacity - steps["free_tokens"].to_numpy()) / capacity
    used = filled - steps["evictable_tokens"].to_numpy() / capacity
    weights = held_for if held_for.any() else np.ones_like(held_for)
    total = int(weights.sum())
    return nothing | {
        "kv_use_mean": fsum(used * weights) / total,
        "kv_use_max": float(used.max()),
        "kv_filled_mean": fsum(filled * weights) / total,
        "kv_filled_max": float(filled.max()),
    }
