"""What can never run is refused and told why; what nearly can is cut; the run goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from simulator import simulate
from simulator.world import RefusedError
from tests.simulator.checks import Row, rows_of
from tests.simulator.harness import MS, request_of
from traces.records import load_run
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from pathlib import Path

    from traces import Run

LIMIT = 1000  # tokens of KV, and so the context limit


def run_of(*requests: TraceRequest, **given: Any) -> Run:
    settings = [f"kv.capacity_tokens={LIMIT}", *given.pop("settings", ())]
    return simulate(Workload("w", requests), settings=settings, **given)


def row_of(run: Run, index: int) -> Row:
    rows = {row["id"]: row for row in rows_of(run, "requests")}
    return rows[f"r{index:06d}"]


@pytest.mark.parametrize("prompt", [LIMIT, LIMIT + 1, 50 * LIMIT])
def test_a_prompt_as_long_as_the_context_limit_is_refused_and_the_run_goes_on(prompt: int) -> None:
    run = run_of(request_of(0, 0, prompt, 4), request_of(1, 0, 100, 4), request_of(2, MS, 50, 4))
    refused = row_of(run, 0)
    assert refused["finish_reason"] == "refused"
    assert f"{prompt} tokens" in refused["reason"]
    assert f"at most {LIMIT - 1}" in refused["reason"]
    assert refused["first_scheduled_ns"] is refused["first_token_ns"] is None
    assert refused["finish_ns"] >= refused["arrival_ns"]
    assert (refused["output_tokens"], refused["cached_tokens"]) == (0, 0)
    assert [row_of(run, i)["finish_reason"] for i in (1, 2)] == ["length", "length"]
    assert run.manifest["counts"]["refused"] == run.summary().refused == 1
    assert "refused" in str(run)
    assert run.status == "complete"


def test_a_given_context_limit_refuses_below_what_the_pool_holds() -> None:
    run = run_of(request_of(0, 0, 200), settings=["policy.context_limit=200"])
    assert "the context limit of 200 takes prompts of at most 199" in row_of(run, 0)["reason"]
    run = run_of(request_of(0, 0, LIMIT), settings=["policy.context_limit=5000"])
    assert f"the KV pool of {LIMIT}" in row_of(run, 0)["reason"]


def test_a_refused_first_request_does_not_keep_the_rest_waiting() -> None:
    """Also where the refused one is all there is for a while, and the server goes to sleep."""
    run = run_of(request_of(0, 0, LIMIT), request_of(1, 10**10, 100, 2))
    assert row_of(run, 0)["finish_ns"] < MS
    assert row_of(run, 1)["first_scheduled_ns"] >= 10**10


def test_strict_makes_a_refusal_an_error_and_keeps_what_was_recorded(tmp_path: Path) -> None:
    requests = (request_of(0, 0, 100, 4), request_of(1, 10**9, LIMIT, 4), request_of(2, 10**9, 9))
    with pytest.raises(RefusedError, match=r"request 'r000001' was refused: the prompt has 1000"):
        run_of(*requests, strict=True, out=tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.status.startswith("failed: RefusedError: request 'r000001' was refused")
    assert row_of(run, 0)["finish_reason"] == "length"
    assert row_of(run, 1)["finish_reason"] == "refused"
    assert row_of(run, 2)["finish_reason"] is None
    assert run_of(requests[0], strict=True).status == "complete"


def test_a_shorter_prompts_output_is_cut_to_what_fits_and_the_cut_is_counted() -> None:
    run = run_of(request_of(0, 0, 900, 500), request_of(1, 0, 900, 40), request_of(2, 9, 9, 9))
    cut = row_of(run, 0)
    assert cut["requested_max_new_tokens"] == 500
    assert cut["max_new_tokens"] == LIMIT - 900 - 2
    assert (cut["finish_reason"], cut["output_tokens"]) == ("length", cut["max_new_tokens"])
    whole = row_of(run, 1)
    assert (whole["finish_reason"], whole["output_tokens"]) == ("length", 40)
    assert run.manifest["counts"]["cut"] == run.summary().cut == 1
    assert run.manifest["counts"]["finished"] == 3
    assert "cut" in str(run)


def test_a_prompt_one_below_the_limit_still_gets_a_token_or_a_reason() -> None:
    for prompt in range(LIMIT - 6, LIMIT):
        row = row_of(run_of(request_of(0, 0, prompt, 4)), 0)
        match row["finish_reason"]:
            case "length":
                assert row["output_tokens"] == max(1, row["max_new_tokens"])
            case reason:
                assert reason == "refused"
                assert f"{prompt} tokens" in row["reason"]


def test_with_a_higher_limit_requests_stop_by_themselves_at_their_true_length() -> None:
    """`workload.max_new_tokens` and `workload.ignore_eos` put a real server's limits over a trace."""
    requests = [request_of(i, i * MS, 20, 5 + i) for i in range(10)]
    settings = ["workload.ignore_eos=false", "workload.max_new_tokens=100"]
    run = run_of(*requests, settings=settings)
    for i, request in enumerate(requests):
        row = row_of(run, i)
        assert (row["finish_reason"], row["output_tokens"]) == ("stop", len(request.output))
        assert row["requested_max_new_tokens"] == row["max_new_tokens"] == 100


def test_a_lower_limit_ends_them_and_ignoring_eos_runs_them_past_their_length() -> None:
    requests = [request_of(0, 0, 20, 5), request_of(1, 0, 20, 50)]
    run = run_of(*requests, settings=["workload.ignore_eos=false", "workload.max_new_tokens=10"])
    ends = [(row_of(run, i)["finish_reason"], row_of(run, i)["output_tokens"]) for i in (0, 1)]
    assert ends == [("stop", 5), ("length", 10)]
    run = run_of(*requests, settings=["workload.ignore_eos=true", "workload.max_new_tokens=10"])
    ends = [(row_of(run, i)["finish_reason"], row_of(run, i)["output_tokens"]) for i in (0, 1)]
    assert ends == [("length", 10), ("length", 10)]


def test_the_last_token_allowed_that_is_also_the_models_last_is_a_stop() -> None:
    request = request_of(0, 0, 20, 5, max_new_tokens=5, ignore_eos=False)
    row = row_of(run_of(request), 0)
    assert (row["finish_reason"], row["output_tokens"]) == ("stop", 5)


def test_a_full_queue_refuses_with_its_reason() -> None:
    requests = [request_of(i, 0, 400, 50) for i in range(5)]
    settings = ["policy.max_queued_requests=2", "policy.max_running_requests=1"]
    run = run_of(*requests, settings=settings)
    reasons = [row_of(run, i)["reason"] for i in range(5)]
    assert reasons[:2] == [None, None]
    assert all("max_queued_requests" in reason for reason in reasons[2:])
