"""Results of `vllm bench serve --save-result --save-detailed` and `sglang.bench_serving --output-details`.

Both write, for each request in the order it was made: `input_lens`, `output_lens`, `ttfts` and `itls`,
in seconds; newer versions of either also `start_times`. vLLM writes one JSON object a file, SGLang
appends one a line. A request that failed has an output length of 0 or an error, and is left out.

Without `start_times` only latencies are known. Requests then come as the client's limit on concurrency
lets them, or at its rate, which was drawn by the client and is drawn anew here.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import numpy as np

from traces.errors import RowError, TraceError, shown
from traces.readers.fields import Row, integers, json_row, required, time_ns
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


def _object(path: Path, line: int | None) -> tuple[int, Row]:
    source = TraceLines(path)
    texts = list(source)
    try:  # a single object may be spread over lines
        return texts[0][0], json_row("\n".join(text for _, text in texts))
    except (RowError, IndexError):
        pass
    rows = []
    for number, text in texts:
        try:
            rows.append((number, json_row(text)))
        except RowError as error:
            raise TraceError(path, error.found, error.expected, line=number) from None
    if line is None and len(rows) == 1:
        return rows[0]
    found = [row for row in rows if row[0] == line]
    if not found:
        lines = ", ".join(str(number) for number, _ in rows)
        raise TraceError(path, f"{len(rows)} results", f"one, or to be told which line of {lines}")
    return found[0]


def _read(path: Path, row: Row, workload: str | Path | None) -> RealRun:
    missing = [name for name in NEEDED if name not in row]
    if missing:
        raise RowError(
            "a result without times of each request",
            "one written with --save-detailed (vLLM) or --output-details (SGLang)",
            field=missing[0],
        )
    prompts = integers(row["input_lens"], "input_lens").tolist()
    outputs = integers(row["output_lens"], "output_lens").tolist()
    n = len(prompts)
    ttfts, itls = _list(row, "ttfts", n), _list(row, "itls", n)
    starts = None if row.get("start_times") is None else _list(row, "start_times", n)
    errors = _list(row, "errors", n) if row.get("errors") else [""] * n
    if len(outputs) != n:
        raise RowError(f"{len(outputs)} values", f"{n}, as input_lens has", field="output_lens")
    notes: list[str] = []
    begun = None if starts is None else min(_seconds(s, "start_times") for s in starts)
    kept, unknown_ends = [], 0
    for i in range(n):
        if errors[i] or not outputs[i] or not prompts[i]:
            continue
        gaps = itls[i]
        if not isinstance(gaps, list):
            raise RowError(shown(gaps), "a list of seconds for each request", field="itls")
        itl = tuple(time_ns(gap, f"itls[{i}]", "s") for gap in gaps)
        whole = bool(itl) or outputs[i] == 1
        unknown_ends += not whole
        ttft = time_ns(ttfts[i], f"ttfts[{i}]", "s")
        arrival = None
        if starts is not None and begun is not None:
            arrival = round((_seconds(starts[i], "start_times") - begun) * NS_PER_S)
        kept.append(
            RealRequest(
                f"r{i:06d}",
                prompts[i],
                outputs[i],
                arrival,
                ttft,
                ttft + sum(itl) if whole else None,
                itl if whole else None,
            )
        )
    if not kept:
        raise RowError("no request that was answered", "at least one", field="output_lens")
    if unknown_ends:
        notes.append(
            f"{unknown_ends:,} requests with several tokens and no time between them: when they ended is "
            "not known"
        )
    limit = row.get("max_concurrency")
    concurrency = limit if isinstance(limit, int) and limit > 0 else None
    if starts is None:
        notes.append("when requests were sent was not recorded")
        if concurrency is None:
            kept = _drawn(kept, row, notes)
    elif concurrency is not None:
        notes.append(f"sent when another of {concurrency} had ended, as the client did")
    work, unknown = workload_of(kept, path.stem, workload, path)
    return RealRun(
        name=path.name.removesuffix(".gz").rsplit(".", 1)[0],
        source="vllm bench serve" if _is_vllm(row) else "sglang.bench_serving",
        path=path,
        requests=tuple(kept),
        workload=work,
        engine=EngineSettings(
            engine="vllm" if _is_vllm(row) else "sglang",
            model=str(row["model_id"]) if row.get("model_id") else None,
        ),
        concurrency=concurrency,
        failed=n - len(kept),
        notes=(*notes, *unknown, "the client's clock: network and HTTP are in the latencies"),
    )


def _is_vllm(row: Row) -> bool:
    named = row.get("backend") or row.get("endpoint_type")
    return "model_id" in row or named in ("vllm", "openai-comp")


def _drawn(requests: list[RealRequest], row: Row, notes: list[str]) -> list[RealRequest]:
    """The requests with arrivals as a client of that rate would draw them; all at once for `inf`."""
    rate = row.get("request_rate", "inf")
    per_s = math.inf if rate in (None, "inf") else rate
    if isinstance(per_s, bool) or not isinstance(per_s, int | float) or not per_s > 0:
        raise RowError(shown(rate), "requests per second, or inf", field="request_rate")
    if math.isinf(per_s):
        return [_at(request, 0) for request in requests]
    shape = row.get("burstiness", 1.0)
    if isinstance(shape, bool) or not isinstance(shape, int | float) or not shape > 0:
        raise RowError(shown(shape), "a number above 0", field="burstiness")
    notes.append(f"arrivals are drawn anew at {per_s:g} requests per second")
    gaps = np.random.default_rng(SEED).gamma(shape, 1 / (per_s * shape), len(requests))
    at = accumulate(round(gap * NS_PER_S) for gap in gaps.tolist())
    return [_at(request, when) for request, when in zip(requests, at, strict=True)]


def _at(request: RealRequest, arrival_ns: int) -> RealRequest:
    from dataclasses import replace

    return replace(request, arrival_ns=arrival_ns)


def _list(row: Row, name: str, n: int) -> list[object]:
    value = required(row, name, "a list")
    if not isinstance(value, list) or len(value) != n:
        raise RowError(shown(value), f"a list of {n} values, as input_lens has", field=name)
    return value


def _seconds(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(shown(value), "seconds, a number", field=field)
    return float(value)
