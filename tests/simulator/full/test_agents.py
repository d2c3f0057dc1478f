"""Agent sessions in closed loop: each call waits for what its trace says it waits for."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator import simulate
from traces import read_trace

WEKA = Path(__file__).resolve().parents[3].parent / "shared/traces/weka/weka_0001-0600.tar.zst"
CALLS = 6_000  # of whole sessions, in the order of the files: some 100 of the 571


@pytest.mark.slow
@pytest.mark.skipif(not WEKA.exists(), reason="the agent sessions are not here")
def test_fifty_sessions_at_once_keep_their_order_waits_and_joins() -> None:
    work = read_trace(WEKA, limit=CALLS)
    run = simulate(work, records=("requests",))
    rows = run.requests.set_index("id")
    assert len(rows) == len(work), "a row per call, subagents' included"
    assert set(rows["finish_reason"]) <= {"length", "refused"}
    counts = run.manifest["counts"]
    assert counts["finished"] + counts["refused"] == len(work)
    assert counts["unfinished"] == 0
    sent, ended = rows["arrival_ns"].to_dict(), rows["finish_ns"].to_dict()
    for request in work:
        waits = [int(ended[other]) for other in request.depends_on]
        if request.spawned_by is not None:
            waits.append(int(sent[request.spawned_by]))
        if waits:
            assert sent[request.id] == max(waits) + request.delay_ns, request.id
    spans = rows.groupby("session").agg({"arrival_ns": "min", "finish_ns": "max"})
    assert all(
        ((spans["arrival_ns"] <= start) & (spans["finish_ns"] > start)).sum() <= 50
        for start in spans["arrival_ns"]
    )
    refused = rows[rows["finish_reason"] == "refused"]
    assert (refused["prompt_tokens"] >= run.manifest["kv_capacity_tokens"] - 1).all()
