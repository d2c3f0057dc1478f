"""A run folder of this project, of either world, as a real run.

Its records say more than any other source: the steps, the host's time by phase and, where they were
recorded, every decision. Token ids are those of the decision log; without it the workload that the
manifest names is read again, and where that is gone prompts that share nothing stand in.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traces.errors import TraceError
from traces.readers.read import read_trace
from traces.real_runs.base import EngineSettings, RealRequest, RealRun, RealSeries
from traces.real_runs.workload import MADE, workload_of
from traces.records.errors import RecordError
from traces.records.metrics import finished_requests
from traces.records.run import load_run
from traces.tokens import ExplicitTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from traces.records.run import Run

NS_PER_S = 1_000_000_000
BINS = 200


def is_run_folder(path: Path) -> bool:
    """Whether a path is a run folder."""
    return path.is_dir() and (path / "manifest.json").is_file()


def read_our_run(path: Path, workload: str | Path | None = None) -> RealRun:
    """One run.

    Args:
        path: its folder.
        workload: what it replayed; by default what its records hold.

    Raises:
        TraceError: where the folder holds no run, or nothing of it ended.
    """
    try:
        return from_run(load_run(path), path, workload)
    except RecordError as error:
        raise TraceError(path, str(error), "a run that can be read") from error


def from_run(run: Run, path: Path, workload: str | Path | Workload | None = None) -> RealRun:
    """The same of a run that is loaded; its workload may be given as it is."""
    done = finished_requests(run).sort_values("arrival_ns", kind="stable")
    if not len(done):
        raise TraceError(path, "no request that ended", "at least one")
    first = int(run.requests["arrival_ns"].min())
    for column in ("first_token_ns", "finish_ns"):
        if done[column].isna().any():
            name = done["id"][done[column].isna()].iloc[0]
            raise TraceError(path, f"request {name!r} that ended without {column}", "its time")
    requests = tuple(_request(row, first) for row in done.to_dict("records"))
    closed = run.manifest.get("config", {}).get("workload", {}).get("concurrency")
    concurrency = closed if isinstance(closed, int) else None
    notes: tuple[str, ...] = ()
    if isinstance(workload, Workload):
        work = workload
    else:
        work, notes = _workload(run, requests, path, workload, first)
    return RealRun(
        name=run.name,
        source=f"run folder ({run.manifest.get('world', 'unknown world')})",
        path=path,
        requests=requests,
        workload=work,
        engine=_settings(run.manifest),
        series=_series(run, first) if run.has("steps") and len(run.steps) else None,
        run=run,
        concurrency=concurrency,
        failed=len(run.requests) - len(done),
        notes=notes,
    )


def _request(row: Mapping[Any, Any], first: int) -> RealRequest:
    times = row.get("token_times_ns")
    arrival = int(row["arrival_ns"])
    itl = None if times is None else tuple(np.diff(np.asarray(times, np.int64)).tolist())
    return RealRequest(
        id=str(row["id"]),
        prompt_tokens=int(row["prompt_tokens"]),
        output_tokens=int(row["output_tokens"]),
        arrival_ns=arrival - first,
        ttft_ns=int(row["first_token_ns"]) - arrival,
        e2e_ns=int(row["finish_ns"]) - arrival,
        itl_ns=itl,
    )


def _workload(
    run: Run,
    requests: tuple[RealRequest, ...],
    path: Path,
    given: str | Path | None,
    first: int,
) -> tuple[Workload, tuple[str, ...]]:
    if given is None and run.has("tokens"):
        return _logged(run, path, first)
    known = {request.id: request for request in requests}
    named = run.manifest.get("workload", {})
    made = named.get("format") in ("run", MADE)
    source = given or (None if made else named.get("path"))
    if source is not None and (given is not None or Path(source).exists()):
        work = read_trace(source)
        matching = [r for r in work if r.id in known]
        if len(matching) == len(known):
            return Workload(work.name, matching, work.meta), ()
        if given is not None:
            raise TraceError(
                given,
                f"{len(matching)} of the {len(known)} requests that ended",
                "the workload that the run replayed",
            )
    return workload_of(requests, run.name, None, path)


def _logged(run: Run, path: Path, first: int) -> tuple[Workload, tuple[str, ...]]:
    """The workload from the decision log: ids of prompts and outputs as they were.

    Where the tables of a run that was cut off do not reach equally far, what all of them hold counts.
    """
    columns = ["id", "session", "tenant", "priority", "arrival_ns", "requested_max_new_tokens"]
    rows = finished_requests(run)[columns].to_dict("records")
    asked: dict[str, Mapping[Any, Any]] = {str(row["id"]): row for row in rows}
    log = run.decisions
    came = log["request_id"][log["event"] == "arrival"].tolist()
    place = {str(name): i for i, name in enumerate(came)}  # of one instant, in the order they came
    made = []
    for row in run.tokens.to_dict("records"):
        name = str(row["request_id"])
        if name not in asked or name not in place:
            continue
        request = asked[name]
        made.append(
            TraceRequest(
                id=name,
                arrival_ns=int(request["arrival_ns"]) - first,
                prompt=ExplicitTokens(np.asarray(row["prompt"], np.int64)),
                output=ExplicitTokens(np.asarray(row["output"], np.int64)),
                max_new_tokens=_optional(request["requested_max_new_tokens"]) or len(row["output"]),
                ignore_eos=bool(row.get("ignore_eos", True)),
                priority=_optional(request["priority"]),
                tenant=_text(request["tenant"]),
                session=_text(request["session"]),
            )
        )
    if not made:
        raise TraceError(path, "no request that ended in its decision log", "at least one")
    made.sort(key=lambda request: (request.arrival_ns, place[request.id]))
    missing = len(asked) - len(made)
    notes = (f"{missing:,} requests that ended are not in the decision log",) if missing else ()
    return Workload(run.name, made, {"path": str(path), "format": "run"}), notes


def _optional(value: Any) -> int | None:
    import pandas as pd

    return None if pd.isna(value) else int(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _settings(manifest: Mapping[str, Any]) -> EngineSettings:
    config = manifest.get("config", {})
    policy = config.get("policy", {})
    resolved = manifest.get("resolved", {})
    hardware = manifest.get("hardware", {})
    return EngineSettings(
        engine=str(config.get("preset") or "sglang"),
        version=manifest.get("versions", {}).get("schedtwin"),
        model=config.get("model", {}).get("path"),
        device=hardware.get("device"),
        max_running_requests=resolved.get("max_running_requests"),
        context_limit=resolved.get("context_limit"),
        kv_tokens=manifest.get("kv_capacity_tokens"),
        page_size=policy.get("page_size"),
        prefix_caching=policy.get("cache") != "none",
        overlapped=policy.get("overlap") == "overlapped",
    )


def _series(run: Run, first: int) -> RealSeries:
    """What the step table says, at `BINS` regular times."""
    ranks = int(run.manifest.get("ranks", 1))
    steps = run.steps if ranks == 1 else _together(run.steps)
    commit = (steps["commit_ns"].to_numpy(np.int64) - first) / NS_PER_S
    width = max(float(commit[-1]) / BINS, 1e-9)
    edges = np.arange(1, BINS + 1, dtype=np.float64) * width
    last = np.clip(np.searchsorted(commit, edges, "right") - 1, 0, None)
    capacity = run.manifest.get("kv_capacity_tokens")
    used = None
    if capacity:
        # a rank that sleeps has no row, and holds nothing
        parts = steps["parts"].to_numpy() if ranks > 1 else 1
        spare = steps["free_tokens"].to_numpy() + steps["evictable_tokens"].to_numpy()
        used = (parts * capacity - spare)[last] / (ranks * capacity)
    place = np.minimum((commit / width).astype(np.int64), BINS - 1)

    def rate(column: str) -> np.ndarray:
        amount = np.bincount(place, steps[column].to_numpy(np.float64), BINS)
        return np.asarray(amount / width)

    return RealSeries(
        time_s=edges,
        output_tokens_per_s=rate("decode_requests"),
        prompt_tokens_per_s=rate("prefill_tokens"),
        running=steps["running"].to_numpy(np.float64)[last],
        waiting=steps["waiting"].to_numpy(np.float64)[last],
        kv_share=used,
    )


def _together(steps: pd.DataFrame) -> pd.DataFrame:
    """One row a step for the rows of its ranks: what is counted, together; the latest commit."""
    columns = ["prefill_tokens", "decode_requests", "running", "waiting"]
    columns += ["free_tokens", "evictable_tokens"]
    by_step = steps.groupby("end_ns", sort=True)
    return by_step[columns].sum().assign(commit_ns=by_step["commit_ns"].max(), parts=by_step.size())
