"""Results of `vllm bench serve --save-result --save-detailed` and `sglang.bench_serving --output-details`.

Both write, for each request in the order it was made: `input_lens`, `output_lens`, `ttfts` and `itls`,
in seconds; newer versions of vLLM's also `start_times` and `latencies`, of SGLang's `server_info`. vLLM
writes one JSON object a file, or appends one a line as SGLang does. A request that failed has an output
length of 0 or an error, and is left out.

Requests are replayed when they were sent. A client that holds back nothing but what exceeds its limit on
concurrency is a closed loop. Without `start_times` only latencies are known: requests then come at the
client's rate, drawn anew.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import accumulate, compress
from typing import TYPE_CHECKING, Final

import numpy as np

from traces.errors import RowError, TraceError, shown
from traces.readers.fields import Row, an_object, integers, required, time_ns
from traces.readers.lines import TraceLines
from traces.real_runs.base import EngineSettings, RealRequest, RealRun
from traces.real_runs.workload import workload_of

if TYPE_CHECKING:
    from pathlib import Path

NS_PER_S = 1_000_000_000
NEEDED: Final = ("input_lens", "output_lens", "ttfts", "itls")
SEED = 0


def is_bench_serving(keys: frozenset[str]) -> bool:
    """Whether an object with these keys is a result of one of the two."""
    return {"duration", "completed"} <= keys and bool(keys & {"request_rate", "total_input_tokens"})


def read_bench_serving(
    path: Path, workload: str | Path | None = None, line: int | None = None
) -> RealRun:
    """One result.

    Args:
        path: the file.
        workload: what was sent, if at hand.
        line: which of several results of a file, by its line; it must be told where there are
            several.

    Raises:
        TraceError: names the file, the line and the key.
    """
    number, row = _object(path, line)
    try:
        return _read(path, row, workload)
    except RowError as error:
        raise TraceError(
            path, error.found, error.expected, line=number, field=error.field
        ) from None


def result_row(text: str) -> Row:
    """A result as Python's json writes it: with NaN, and Infinity for a rate without limit."""
    try:
        return an_object(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise RowError(f"{shown(text)} ({error})", "a well-formed JSON object") from None


def _object(path: Path, line: int | None) -> tuple[int, Row]:
    source = TraceLines(path)
    texts = list(source)
    try:  # a single object may be spread over lines
        return texts[0][0], result_row("\n".join(text for _, text in texts))
    except (RowError, IndexError):
        pass
    rows = []
    for number, text in texts:
        try:
            rows.append((number, result_row(text)))
        except RowError as error:
            raise TraceError(path, error.found, error.expected, line=number) from None
    if line is None and len(rows) == 1:
        return rows[0]
    found = [row for row in rows if row[0] == line]
    if not found:
        lines = ", ".join(str(number) for number, _ in rows)
        raise TraceError(
            path, f"{len(rows)} results", f"one, or to be told which line of {lines} (--line)"
        )
    return found[0]


def _read(path: Path, row: Row, workload: str | Path | None) -> RealRun:
    missing = [name for name in NEEDED if name not in row]
    if missing:
        raise RowError(
            "a result without times of each request",
            "one written with --save-detailed (vLLM) or --output-details (SGLang)",
            field=missing[0],
        )
    notes: list[str] = []
    answered, which = _answered(row, notes)
    if not answered:
        raise RowError("no request that was answered", "at least one", field="output_lens")
    requests, sent, concurrency = _sent(answered, row, notes)
    work, unknown = workload_of(sent, path.stem, workload, path, which)
    return RealRun(
        name=path.name.removesuffix(".gz").rsplit(".", 1)[0],
        source="vllm bench serve" if _is_vllm(row) else "sglang.bench_serving",
        path=path,
        requests=tuple(requests),
        workload=work,
        engine=_settings(row),
        concurrency=concurrency,
        failed=len(which) - len(answered),
        notes=(*notes, *unknown, "the client's clock: network and HTTP are in the latencies"),
    )


def _answered(row: Row, notes: list[str]) -> tuple[list[RealRequest], list[bool]]:
    """The requests that were answered, and which of all that were sent they are."""
    prompts = integers(row["input_lens"], "input_lens").tolist()
    outputs = integers(row["output_lens"], "output_lens").tolist()
    n = len(prompts)
    if len(outputs) != n:
        raise RowError(f"{len(outputs)} values", f"{n}, as input_lens has", field="output_lens")
    ttfts, itls = _list(row, "ttfts", n), _list(row, "itls", n)
    starts = None if row.get("start_times") is None else _list(row, "start_times", n)
    ends = None if row.get("latencies") is None else _list(row, "latencies", n)
    errors = _list(row, "errors", n) if row.get("errors") else [""] * n
    which = [not errors[i] and outputs[i] > 0 and prompts[i] > 0 for i in range(n)]
    kept = list(compress(range(n), which))
    # a request that failed may have begun at 0, by another clock than the rest
    begun = [_seconds(starts[i], "start_times") for i in kept] if starts is not None else []
    found, unknown_ends = [], 0
    for place, i in enumerate(kept):
        gaps = itls[i]
        if not isinstance(gaps, list):
            raise RowError(shown(gaps), "a list of seconds for each request", field="itls")
        itl = tuple(time_ns(gap, f"itls[{i}]", "s") for gap in gaps)
        ttft = time_ns(ttfts[i], f"ttfts[{i}]", "s")
        whole = bool(itl) or outputs[i] == 1
        end = ttft + sum(itl) if whole else None
        if end is None and ends is not None:
            end = time_ns(ends[i], f"latencies[{i}]", "s")
        unknown_ends += end is None
        arrival = round((begun[place] - min(begun)) * NS_PER_S) if begun else None
        found.append(
            RealRequest(
                f"r{i:06d}", prompts[i], outputs[i], arrival, ttft, end, itl if whole else None
            )
        )
    if unknown_ends:
        notes.append(
            f"{unknown_ends:,} requests with several tokens and no time between them: when they ended is "
            "not known"
        )
    return found, which


def _sent(
    answered: list[RealRequest], row: Row, notes: list[str]
) -> tuple[list[RealRequest], list[RealRequest], int | None]:
    """How requests were sent.

    Returns:
        them as far as known; them as to be replayed, where arrivals may be made up; and how many
        were under way at once where nothing else held them back.
    """
    limit = row.get("max_concurrency")
    limit = limit if isinstance(limit, int) and limit > 0 else None
    rate = _per_second(row)
    recorded = answered[0].arrival_ns is not None
    if not recorded:
        notes.append("when requests were sent was not recorded")
    if limit is not None and math.isinf(rate):
        if recorded:
            notes.append(f"sent when another of {limit} had ended, as the client did")
        return answered, answered, limit
    if recorded:
        return answered, answered, None
    if math.isinf(rate):
        at_once = [replace(request, arrival_ns=0) for request in answered]
        return at_once, at_once, None
    notes.append(f"arrivals are drawn anew at {rate:g} requests per second")
    if limit is not None:
        notes.append(f"the client's limit of {limit} under way at once is not kept")
    return answered, _drawn(answered, row, rate), None


def _per_second(row: Row) -> float:
    """Requests that the client sent; infinite for all at once."""
    rate = row.get("request_rate", "inf")
    per_s = math.inf if rate in (None, "inf") else rate
    if isinstance(per_s, bool) or not isinstance(per_s, int | float) or not per_s > 0:
        if rate == "trace" and row.get("start_times") is not None:
            return math.nan  # sent at the times of a trace, and recorded
        raise RowError(shown(rate), "requests per second, or inf", field="request_rate")
    return float(per_s)


def _drawn(requests: list[RealRequest], row: Row, per_s: float) -> list[RealRequest]:
    """The requests with arrivals as a client of that rate would draw them."""
    shape = row.get("burstiness", 1.0)
    if isinstance(shape, bool) or not isinstance(shape, int | float) or not shape > 0:
        raise RowError(shown(shape), "a number above 0", field="burstiness")
    gaps = np.random.default_rng(SEED).gamma(shape, 1 / (per_s * shape), len(requests))
    at = accumulate(round(gap * NS_PER_S) for gap in gaps.tolist())
    return [replace(request, arrival_ns=when) for request, when in zip(requests, at, strict=True)]


def _settings(row: Row) -> EngineSettings:
    """What is known of the engine; SGLang's newer client asks the server for its arguments."""
    model = row.get("model_id")
    if _is_vllm(row):
        return EngineSettings(engine="vllm", model=str(model) if model else None)
    told = _section(row.get("server_info"))
    states = told.get("internal_states")
    state = _section(states[0]) if isinstance(states, list) and states else {}
    memory = _section(state.get("memory_usage"))
    version, model = told.get("version"), told.get("model_path", model)
    share, order = told.get("mem_fraction_static"), told.get("schedule_policy")
    experts = _positive(told, "ep_size")
    return EngineSettings(
        engine="sglang",
        version=version if isinstance(version, str) else None,
        model=model if isinstance(model, str) else None,
        tensor_parallel=_positive(told, "tp_size"),
        data_parallel=_positive(told, "dp_size"),
        expert_parallel=None if experts is None else experts > 1,
        max_running_requests=_positive(state, "effective_max_running_requests_per_dp")
        or _positive(told, "max_running_requests"),
        max_batched_tokens=_positive(told, "chunked_prefill_size"),
        context_limit=_positive(told, "context_length"),
        kv_tokens=_positive(told, "max_total_num_tokens") or _positive(memory, "token_capacity"),
        memory_share=share if isinstance(share, float) else None,
        page_size=_positive(told, "page_size"),
        prefix_caching=_not(told, "disable_radix_cache"),
        overlapped=_not(told, "disable_overlap_schedule"),
        order=order if isinstance(order, str) else None,
    )


def _section(value: object) -> Row:
    return value if isinstance(value, dict) else {}


def _positive(row: Row, name: str) -> int | None:
    value = row.get(name)
    return value if type(value) is int and value > 0 else None


def _not(row: Row, name: str) -> bool | None:
    value = row.get(name)
    return not value if isinstance(value, bool) else None


def _is_vllm(row: Row) -> bool:
    named = row.get("backend") or row.get("endpoint_type")
    return "model_id" in row or named in ("vllm", "openai-comp")


def _list(row: Row, name: str, n: int) -> list[object]:
    value = required(row, name, "a list")
    if not isinstance(value, list) or len(value) != n:
        raise RowError(shown(value), f"a list of {n} values, as input_lens has", field=name)
    return value


def _seconds(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(shown(value), "seconds, a number", field=field)
    return float(value)
