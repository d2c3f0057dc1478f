"""What a run's tables must say, whatever the policy, the workload and the costs.

Each check compares the tables with the plain account of `tests.simulator.harness.Watch`, with each
other, or with what one host and one device can do at all.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from tests.simulator.harness import Played
    from traces import Run, TraceRequest

Row = dict[str, Any]
MODES = {  # prefill items, decode rows: what the step is called
    (True, False): "extend",
    (False, True): "decode",
    (True, True): "mixed",
    (False, False): "empty",
}


def rows_of(run: Run, table: str) -> list[Row]:
    rows: list[Row] = run.arrow(table).to_pylist()
    return rows


def check_records(played: Played) -> None:
    """All of them; needs every kind of record."""
    check_requests(played)
    check_token_times(played)
    check_itl(played)
    check_steps_on_the_clock(played.run)
    check_steps_against_decisions(played)
    check_gauges(played.run)


def expected_ending(request: TraceRequest, max_new_tokens: int) -> tuple[str, int]:
    """How a request ends if nobody interferes: a prefill samples, so one token it always gets."""
    most = max(1, max_new_tokens)
    if not request.ignore_eos and len(request.output) <= most:
        return "stop", len(request.output)
    return "length", most


def check_requests(played: Played) -> None:
    """Every request has one row, and ended as its workload says, or was given up or refused."""
    rows = {row["id"]: row for row in rows_of(played.run, "requests")}
    assert len(rows) == played.run.arrow("requests").num_rows == len(played.work)
    for request in played.work:
        row = rows[request.id]
        assert row["arrival_ns"] == request.arrival_ns
        assert row["prompt_tokens"] == len(request.prompt)
        assert row["requested_max_new_tokens"] == request.max_new_tokens
        assert row["finish_ns"] == played.watch.ends[request.id]
        assert row["retractions"] == played.watch.retractions[request.id]
        match row["finish_reason"]:
            case "refused":
                assert row["reason"]
                if not row["retractions"]:  # else it was preempted, and then had to make way
                    assert row["first_scheduled_ns"] is None
                    assert row["output_tokens"] == 0
            case "abort":
                assert request.abort_ns is not None
                assert row["finish_ns"] >= request.abort_ns
                assert row["output_tokens"] <= expected_ending(request, row["max_new_tokens"])[1]
            case reason:
                ending = reason, row["output_tokens"]
                assert ending == expected_ending(request, row["max_new_tokens"]), request.id
                assert row["cached_tokens"] < row["prompt_tokens"]
                assert request.arrival_ns <= row["first_scheduled_ns"] <= row["first_token_ns"]


def check_token_times(played: Played) -> None:
    """Each token is there, at the time at which it was reported."""
    for row in rows_of(played.run, "requests"):
        times = played.watch.times[row["id"]]
        assert row["token_times_ns"] == times, row["id"]
        assert len(times) == row["output_tokens"]
        assert row["first_token_ns"] == (times[0] if times else None)
        assert times == sorted(times)
        if row["finish_reason"] in {"stop", "length"}:
            assert row["finish_ns"] == times[-1]
    tokens = sum(map(len, played.watch.times.values()))
    assert played.watch.sampled == tokens + played.watch.dropped


def check_itl(played: Played) -> None:
    """What was gathered on the way is what numpy makes of all gaps between token times."""
    rows = rows_of(played.run, "requests")
    gaps = np.concatenate([[], *(np.diff(row["token_times_ns"]) for row in rows)])
    itl = played.run.manifest["itl"]
    assert itl["count"] == len(gaps)
    if not len(gaps):
        return
    assert itl["exact"]
    assert itl["mean_ns"] == pytest.approx(gaps.mean(), rel=1e-12)
    assert itl["std_ns"] == pytest.approx(gaps.std(), rel=1e-9, abs=1e-3)
    assert (itl["min_ns"], itl["max_ns"]) == (gaps.min(), gaps.max())
    for percent in (50, 90, 95, 99):
        assert itl[f"p{percent}_ns"] == np.percentile(gaps, percent)


def columns_of(run: Run, table: str) -> dict[str, npt.NDArray[Any]]:
    """The columns of a table whose every value is there."""
    columns = {name: run.arrow(table)[name] for name in run.arrow(table).column_names}
    return {name: c.to_numpy() for name, c in columns.items() if not c.null_count}


def host_work(steps: Mapping[str, Any]) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """When the host worked for a step, or for each: up to its launch, and from its result on."""
    before = sum(
        steps[f"host_{phase}_ns"] for phase in ("receive", "schedule", "prepare", "launch")
    )
    after = steps["host_collect_ns"] + steps["host_commit_ns"]
    launch, commit = steps["launch_ns"], steps["commit_ns"]
    return (launch - before, launch), (commit - after, commit)


def check_steps_on_the_clock(run: Run) -> None:
    """One host and one device: neither does two things at a time, and effects follow causes."""
    steps = columns_of(run, "steps")
    if not len(steps["iteration"]):
        return
    launch, start, end, commit = (steps[f"{at}_ns"] for at in ("launch", "start", "end", "commit"))
    assert (np.diff(steps["iteration"]) > 0).all()
    assert (np.diff(commit) >= 0).all()
    # the device takes batches in order, and each as soon as it can
    free = np.concatenate([[0], end[:-1]])
    assert (start == np.maximum(launch, free)).all()
    assert (end >= start).all()
    assert run.manifest["device_busy_ns"] == (end - start).sum()
    (planning, _), (collecting, _) = host_work(steps)
    assert (collecting >= end).all()
    begins, ends = np.concatenate([planning, collecting]), np.concatenate([launch, commit])
    order = np.lexsort((ends, begins))
    order = order[begins[order] < ends[order]]
    assert (begins[order][1:] >= ends[order][:-1]).all(), "the host does two things at a time"
    assert run.manifest["end_ns"] >= commit[-1]


def check_steps_against_decisions(played: Played) -> None:
    """A step's sums are those over its items, and items are launched when the step says."""
    items: dict[int, list[Row]] = defaultdict(list)
    first_scheduled: dict[str, int] = {}
    sampled = 0
    for row in rows_of(played.run, "decisions"):
        if row["kind"] == "item":
            items[row["iteration"]].append(row)
            first_scheduled.setdefault(row["request_id"], row["time_ns"])
            sampled += row["sampled_token"] is not None
    assert sampled == played.watch.sampled
    steps = rows_of(played.run, "steps")
    assert sorted(items) == [step["iteration"] for step in steps if step["mode"] != "empty"]
    for step in steps:
        mine = items[step["iteration"]]
        prefill = [row for row in mine if row["item_kind"] == "prefill"]
        assert {row["time_ns"] for row in mine} <= {step["launch_ns"]}
        assert step["prefill_requests"] == len(prefill)
        assert step["decode_requests"] == len(mine) - len(prefill)
        assert step["prefill_tokens"] == sum(row["length"] for row in prefill)
        assert step["cached_tokens"] == sum(row["start"] for row in prefill)
        kv = [row["start"] + row["length"] for row in mine]
        assert step["kv_tokens_read"] == sum(kv)
        products = (n * row["length"] for n, row in zip(kv, mine, strict=True))
        assert step["query_kv_product"] == sum(products)
        assert step["mode"] == MODES[bool(prefill), len(prefill) < len(mine)]
    for row in rows_of(played.run, "requests"):
        assert row["first_scheduled_ns"] == first_scheduled.get(row["id"])


def check_gauges(run: Run) -> None:
    """Memory and queue sizes are possible ones."""
    steps = columns_of(run, "steps")
    cached = steps["evictable_tokens"] + steps["protected_tokens"]
    capacity = run.manifest["kv_capacity_tokens"]
    assert (steps["free_tokens"] + cached <= capacity).all()
    for name in ("free", "evictable", "protected", "evicted"):
        assert (steps[f"{name}_tokens"] >= 0).all()
        assert (steps[f"{name}_tokens"] <= capacity).all()
    assert (steps["waiting"] >= 0).all()
    assert (steps["running"] >= 0).all()
    assert ((steps["new_token_ratio"] > 0) & (steps["new_token_ratio"] <= 1)).all()
