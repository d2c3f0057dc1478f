"""What each metric means: as `sglang.bench_serving` and NVIDIA AIPerf define it.

`METRICS` holds every definition with its unit and source, for documentation and help. Where the
two tools differ, or use one name for two things, the definition says which is reported. Computes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric is called, its unit, what it means, and whose definition that is."""

    name: str
    label: str
    unit: str
    definition: str
    source: str


_BENCH, _AIPERF = "sglang.bench_serving", "AIPerf"
_BOTH = f"{_BENCH}, {_AIPERF}"
_OWN = "this project"

#: Every metric of a `Summary`, by its name there.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("requests", "requests", "", "requests in the run's table, however ended", _OWN),
        Metric("finished", "finished", "", "requests that ended as stop or length", _BOTH),
        Metric(
            "refused", "refused", "", "requests that could never run, left out of latency", _OWN
        ),
        Metric("aborted", "aborted", "", "requests aborted, left out of latency", _OWN),
        Metric("unfinished", "unfinished", "", "requests the run's end cut off", _OWN),
        Metric(
            "cut",
            "cut",
            "",
            "requests whose output limit was lowered at intake (max_new_tokens below the "
            "requested), as what the KV pool holds allowed no more",
            _OWN,
        ),
        Metric(
            "duration_s",
            "duration",
            "s",
            "first arrival to the last end of any request; bench_serving's clock also runs while "
            "its clients start and close, which a record does not have",
            _BOTH,
        ),
        Metric("requests_per_s", "requests/s", "1/s", "finished requests / duration", _BOTH),
        Metric(
            "input_tokens_per_s",
            "input tokens/s",
            "1/s",
            "prompt tokens of finished requests, cached ones included / duration",
            _BENCH,
        ),
        Metric(
            "output_tokens_per_s",
            "output tokens/s",
            "1/s",
            "output tokens of finished requests / duration",
            _BOTH,
        ),
        Metric("total_tokens_per_s", "total tokens/s", "1/s", "input plus output tokens/s", _BOTH),
        Metric(
            "concurrency",
            "concurrency",
            "",
            "sum of the end-to-end latencies / duration: requests in the system on average",
            _BENCH,
        ),
        Metric(
            "ttft_ms",
            "TTFT",
            "ms",
            "time to first token: first token minus arrival (the sending)",
            _BOTH,
        ),
        Metric(
            "tpot_ms",
            "TPOT",
            "ms",
            "time per output token: (end-to-end - TTFT) / (output tokens - 1), one value per "
            "request of two tokens or more; AIPerf calls this inter token latency",
            _BOTH,
        ),
        Metric(
            "itl_ms",
            "ITL",
            "ms",
            "inter-token latency: the gap between consecutive tokens of a request, one value per "
            "gap; AIPerf calls this inter chunk latency, and its inter token latency is TPOT here",
            _BENCH,
        ),
        Metric(
            "e2e_ms",
            "end-to-end",
            "ms",
            "last token minus arrival; AIPerf's request latency",
            _BOTH,
        ),
        Metric("queue_ms", "queue time", "ms", "first entry into a batch minus arrival", _OWN),
        Metric(
            "output_tokens_per_s_per_user",
            "output tokens/s per user",
            "1/s",
            "1 / TPOT of each request (AIPerf: 1 / its inter token latency), the first token left "
            "out; not output tokens/s divided by users",
            _AIPERF,
        ),
        Metric(
            "cache_hit_ratio",
            "cache hit ratio",
            "",
            "prompt tokens found cached at first admission / prompt tokens, of all requests that "
            "were scheduled",
            _OWN,
        ),
        Metric(
            "kv_use_mean",
            "KV use",
            "",
            "share of the KV pool held by requests: (capacity - free - evictable) / capacity, "
            "the mean over time; a step's state counts from its launch to the next launch, or to "
            "its commit where that is sooner, so idle time does not count",
            _OWN,
        ),
        Metric("kv_use_max", "KV use, most", "", "the largest KV use of any step", _OWN),
        Metric(
            "kv_filled_mean",
            "KV use with cached",
            "",
            "share of the KV pool held or cached: (capacity - free) / capacity, mean over time",
            _OWN,
        ),
        Metric("kv_filled_max", "KV use with cached, most", "", "the largest such share", _OWN),
        Metric("retractions", "retractions", "", "times a running request was sent back", _OWN),
        Metric(
            "device_busy_share",
            "device busy",
            "",
            "sum over steps of device end - start / duration",
            _OWN,
        ),
    )
}
