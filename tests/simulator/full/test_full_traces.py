"""Recorded traces, whole, with the defaults: every request is answered, and nothing is lost."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from simulator import simulate
from tests.simulator.checks import check_gauges, check_steps_on_the_clock, columns_of
from tests.simulator.full.shared import AZURE, MOONCAKE, needs_traces
from traces import read_trace

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, needs_traces]


@pytest.mark.parametrize(("path", "count"), [(AZURE, 19_366), (MOONCAKE, 12_031)])
def test_a_whole_trace_runs_to_its_end(path: Path, count: int) -> None:
    work = read_trace(path)
    assert len(work) == count
    started = time.process_time()
    run = simulate(work)
    spent = time.process_time() - started
    steps = columns_of(run, "steps")
    print(
        f"\n{work.name}: {spent:.1f} CPU-seconds, {count / spent:,.0f} requests and "
        f"{len(steps['iteration']) / spent:,.0f} steps per CPU-second"
    )
    assert run.status == "complete"
    assert run.manifest["counts"]["unfinished"] == 0

    requests = run.requests.set_index("id").loc[[request.id for request in work]]
    assert len(requests) == len(run.requests) == count
    refused = requests["finish_reason"] == "refused"
    assert (refused == requests["reason"].notna()).all()
    assert (refused | (requests["finish_reason"] == "length")).all()
    assert refused.sum() == run.manifest["counts"]["refused"] == run.summary().refused

    served = requests[~refused]
    wanted = np.array([len(request.output) for request in work])[~refused]
    cut = served["max_new_tokens"] < served["requested_max_new_tokens"]
    assert cut.sum() == run.manifest["counts"]["cut"] == run.summary().cut
    assert (served["output_tokens"] == np.minimum(wanted, served["max_new_tokens"])).all()
    times = ["arrival_ns", "first_scheduled_ns", "first_token_ns", "finish_ns"]
    for before, after in pairwise(times):
        assert (served[before] <= served[after]).all()
    assert (served["cached_tokens"] < served["prompt_tokens"]).all()

    check_steps_on_the_clock(run)
    check_gauges(run)
    # every prompt is computed once or found, every token sampled once: by its prefill or a decode row
    assert served["retractions"].sum() == 0
    computed = served["prompt_tokens"].sum() - served["cached_tokens"].sum()
    assert steps["prefill_tokens"].sum() == computed
    assert steps["decode_requests"].sum() + len(served) == served["output_tokens"].sum()
    gaps = served["output_tokens"].sum() - len(served)
    assert run.manifest["itl"]["count"] == gaps
    # the mean gap follows from first and last tokens alone
    spans = int((served["finish_ns"] - served["first_token_ns"]).sum())
    assert run.manifest["itl"]["mean_ns"] == pytest.approx(spans / gaps, rel=1e-3)
