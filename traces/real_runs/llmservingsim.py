"""LLMServingSim's benchmark of vLLM: `requests.jsonl`, `meta.json`, `timeseries.csv`, and the workload.

Source: https://github.com/casys-kaist/LLMServingSim, bench/ (MIT). A folder holds the three files, plain
or gzipped (or has them in a folder `vllm` in it). `arrival_time` is wall-clock time at the front end, the
other instants are of the engine's monotonic clock; the offset between the two is taken to be such that no
request was queued before it arrived, and the quickest at once. Row i of the results is row i of the
workload, which `meta.json` names; it is looked for in the folder and in those above. A row without
instants is of a request that was not answered.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np

from traces.errors import RowError, TraceError
from traces.readers.fields import Row, integer, json_row, length, name_of, required, string
from traces.readers.files import plain_or_gzipped, text_of
from traces.readers.lines import TraceLines
from traces.readers.read import read_trace
from traces.real_runs.base import EngineSettings, RealRequest, RealRun, RealSeries

NS_PER_S = 1_000_000_000
CLOCKS = (
    "the offset between the clocks of arrivals and of the engine is taken to be that of the request "
    "queued soonest after it arrived"
)
REQUESTS = "requests.jsonl"
INSTANTS = ("arrival_time", "queued_ts", "first_token_ts", "last_token_ts")


def is_llmservingsim(path: Path) -> bool:
    """Whether a path is such a folder, or the requests in it."""
    beside = (plain_or_gzipped(place, "meta.json") for place in (path, path / "vllm"))
    return _folder(path) is not None or any(beside)


def read_llmservingsim_run(path: Path, workload: str | Path | None = None) -> RealRun:
    """One benchmark run.

    Args:
        path: its folder, or `requests.jsonl` in it.
        workload: the file it replayed; looked for when left out.

    Raises:
        TraceError: names the file, the line and the field.
    """
    folder = _folder(path)
    if folder is None:
        raise TraceError(path, "no requests.jsonl", "one, as LLMServingSim's benchmark writes it")
    requests_file = plain_or_gzipped(folder, REQUESTS)
    assert requests_file is not None
    meta = _meta(folder)
    work = read_trace(workload or _workload(folder, meta), format="llmservingsim")
    source = TraceLines(requests_file)
    rows, named = [], dict[str, int]()
    for place, (row, name) in source.rows(iter(source), _row):
        if name is not None and named.setdefault(name, place) != place:
            raise TraceError(
                requests_file,
                f"{name!r}, as row {named[name] + 1} has it",
                "each request once",
                line=place + 1,
                field="request_id",
            )
        rows.append(row)
    if len(rows) == meta.get("num_requests") and 0 < len(rows) < len(work):
        work = replace(work, requests=work.requests[: len(rows)])  # --num-reqs of its runner
    if len(rows) != len(work):
        raise TraceError(
            requests_file, f"{len(rows)} requests", f"{len(work)}, as its workload {work.name} has"
        )
    for line, (row, sent) in enumerate(zip(rows, work, strict=True), start=1):
        if (row.prompt, row.output) != (len(sent.prompt), len(sent.output)):
            raise TraceError(
                requests_file,
                f"{row.prompt} prompt and {row.output} output tokens",
                f"{len(sent.prompt)} and {len(sent.output)}, as row {line} of {work.name} has",
                line=line,
            )
    answered = [
        (sent.id, row, row.times)
        for sent, row in zip(work, rows, strict=True)
        if row.times is not None
    ]
    if not answered:
        raise TraceError(requests_file, "no request that was answered", "at least one")
    offset_s = min(times.queued - times.arrival for _, _, times in answered)
    first_s = min(times.arrival for _, _, times in answered)
    requests = [
        RealRequest(
            id=name,
            prompt_tokens=row.prompt,
            output_tokens=row.output,
            arrival_ns=round((times.arrival - first_s) * NS_PER_S),
            ttft_ns=round((times.first - (times.arrival + offset_s)) * NS_PER_S),
            e2e_ns=round((times.last - (times.arrival + offset_s)) * NS_PER_S),
        )
        for name, row, times in answered
    ]
    return RealRun(
        name=_name(folder),
        source="LLMServingSim benchmark of vLLM",
        path=path,
        requests=tuple(requests),
        workload=work,
        engine=_settings(folder, meta),
        series=_series(folder),
        failed=len(rows) - len(requests),
        notes=(
            CLOCKS,
            "times between tokens were not recorded",
        ),
    )


def _folder(path: Path) -> Path | None:
    """The folder that holds the requests."""
    if path.is_file() and path.name.removesuffix(".gz") == REQUESTS:
        # any engine may name its file so; the settings beside it are the benchmark's
        return path.parent if plain_or_gzipped(path.parent, "meta.json") else None
    return next((p for p in (path, path / "vllm") if plain_or_gzipped(p, REQUESTS)), None)


def _meta(folder: Path) -> Row:
    path = plain_or_gzipped(folder, "meta.json")
    if path is None:
        raise TraceError(folder, "no meta.json", "the settings of the run beside its requests")
    return _object(path)


def _object(path: Path) -> Row:
    try:
        return json_row(_text(path))
    except RowError as error:
        raise TraceError(path, error.found, error.expected) from None


def _text(path: Path) -> str:
    try:
        return text_of(path)
    except (OSError, EOFError, ValueError) as error:
        raise TraceError(path, str(error), "text, gzipped where its name says so") from None


def _workload(folder: Path, meta: Row) -> Path:
    try:
        name = Path(string(required(meta, "dataset_path", "the workload's path"), "dataset_path"))
    except RowError as error:
        raise TraceError(
            folder / "meta.json", error.found, error.expected, field=error.field
        ) from None
    for above in (folder, *folder.absolute().parents, *folder.resolve().parents):
        place = plain_or_gzipped(above, str(name)) or plain_or_gzipped(above, name.name)
        if place is not None:
            return place
    raise TraceError(
        folder / "meta.json",
        f"{str(name)!r}, which is neither beside it nor in any of the folders above",
        "the workload there, or given by its path (--trace)",
        field="dataset_path",
    )


class _Times(NamedTuple):
    """Instants of a request in seconds, the arrival by another clock than the rest."""

    arrival: float
    queued: float
    first: float
    last: float


class _Request(NamedTuple):
    """A row: lengths in tokens, and its instants, None where it was not answered."""

    prompt: int
    output: int
    times: _Times | None


def _row(line: str) -> tuple[_Request, str | None]:
    """A request, and its name if it has one."""
    row = json_row(line)

    def instant(field: str) -> float:
        value = required(row, field, "seconds")
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise RowError(json.dumps(value), "seconds, a number", field=field)
        return float(value)

    prompt = length(required(row, "input_toks", "a number of tokens"), "input_toks")
    output = length(required(row, "output_toks", "a number of tokens"), "output_toks")
    name = None if row.get("request_id") is None else name_of(row["request_id"], "request_id")
    if all(required(row, field, "seconds") is None for field in INSTANTS):
        return _Request(prompt, output, None), name
    times = _Times(*(instant(field) for field in INSTANTS))
    if not times.queued <= times.first <= times.last:
        raise RowError(
            f"queued {times.queued}, first token {times.first}, last token {times.last}",
            "them in this order",
        )
    return _Request(prompt, output, times), name


def _settings(folder: Path, meta: Row) -> EngineSettings:
    given = _section(meta, "engine_kwargs")
    resolved = _section(meta, "resolved_config")
    scheduler = _section(resolved, "scheduler_config")
    kv = _section(meta, "kv_cache")
    hardware = _section(meta, "hardware")
    blocks, block = _whole(kv, "num_gpu_blocks"), _whole(kv, "block_size")
    # vLLM's first block is the null block, which holds nothing
    tokens = None if blocks is None or block is None else (blocks - 1) * block
    device = hardware.get("device_name")
    share, caching = kv.get("gpu_memory_utilization"), kv.get("enable_prefix_caching")
    overlapped = scheduler.get("async_scheduling")
    simulated = _simulated(folder)
    link = _link(simulated)
    version, model = meta.get("vllm_version"), meta.get("model")
    return EngineSettings(
        engine="vllm",
        version=version if isinstance(version, str) else None,
        model=model if isinstance(model, str) else None,
        device=device if isinstance(device, str) else _hardware(simulated) or _gpu_folder(folder),
        # vLLM's defaults, where a version of the benchmark did not note them
        tensor_parallel=_whole(given, "tensor_parallel_size") or 1,
        data_parallel=_whole(given, "data_parallel_size") or 1,
        expert_parallel=given.get("enable_expert_parallel") is True,
        max_running_requests=_whole(given, "max_num_seqs"),
        max_batched_tokens=_whole(given, "max_num_batched_tokens"),
        context_limit=_whole(given, "max_model_len"),
        kv_tokens=tokens,
        memory_share=share if isinstance(share, float) else None,
        page_size=block,
        prefix_caching=caching if isinstance(caching, bool) else None,
        overlapped=overlapped if isinstance(overlapped, bool) else None,
        link_latency_ns=link.get("link_latency"),
        link_gigabytes_per_s=link.get("link_bw"),
    )


def _simulated(folder: Path) -> Row:
    """LLMServingSim's own config beside the run: what it takes the machine to be."""
    path = plain_or_gzipped(folder, "config.json") or plain_or_gzipped(
        folder.absolute().parent, "config.json"
    )
    if path is None:
        return {}
    return _object(path)


def _link(config: Row) -> dict[str, float]:
    """What joins the GPUs."""
    return {
        name: float(value)
        for name in ("link_latency", "link_bw")
        if isinstance(value := config.get(name), int | float) and value > 0
    }


def _hardware(config: Row) -> str | None:
    """The GPU, where all instances have the same."""
    found = {
        name
        for node in _list(config, "nodes")
        for instance in _list(node, "instances")
        if isinstance(instance, dict) and isinstance(name := instance.get("hardware"), str)
    }
    return found.pop() if len(found) == 1 else None


def _list(row: object, name: str) -> list[object]:
    value = row.get(name) if isinstance(row, dict) else None
    return value if isinstance(value, list) else []


def _section(row: Row, name: str) -> Row:
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def _whole(row: Row, name: str) -> int | None:
    value = row.get(name)
    return None if value is None else integer(value, name, low=1)


def _gpu_folder(folder: Path) -> str | None:
    """The GPU by the layout `<gpu>/<model>/vllm`."""
    place = folder.resolve()
    return place.parent.parent.name if place.name == "vllm" else None


def _name(folder: Path) -> str:
    place = folder.resolve()
    return "-".join(place.parts[-3:-1] if place.name == "vllm" else place.parts[-1:])


def _series(folder: Path) -> RealSeries | None:
    path = plain_or_gzipped(folder, "timeseries.csv")
    if path is None:
        return None
    columns = ("t", "gen_throughput", "prompt_throughput", "running", "waiting", "kv_cache_pct")
    table: dict[str, list[float]] = {name: [] for name in columns}
    for line, row in enumerate(csv.DictReader(io.StringIO(_text(path))), start=2):
        for name in columns:
            try:
                table[name].append(float(row[name]))
            except (KeyError, TypeError, ValueError):
                raise TraceError(
                    path, repr(row.get(name)), "a number", line=line, field=name
                ) from None
    if not table["t"]:
        return None
    t, generated, prompt, running, waiting, kv = (np.array(table[name]) for name in columns)
    # all zeros where that version of the recorder did not read it
    return RealSeries(t, generated, prompt, running, waiting, kv / 100 if kv.any() else None)
