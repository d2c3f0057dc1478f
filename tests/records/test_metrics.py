"""Metrics are what bench_serving and AIPerf would report, on runs small enough to do by hand."""

import numpy as np
import pytest

from traces.records import METRICS, ItlAccumulator, RunWriter, goodput, summarize
from traces.records.distribution import Distribution
from traces.records.metrics import finished_requests, itl_of_token_times, request_times

S, MS = 1_000_000_000, 1_000_000


@pytest.fixture
def by_hand(request_of, step_of):
    """Two finished requests, one of a single token, one refused, aborted, unfinished each."""
    writer = RunWriter(None, {"kv_capacity_tokens": 1000})
    common = {"max_new_tokens": 8, "requested_max_new_tokens": 8}
    for row in (
        {
            "id": "long",
            "arrival_ns": 1 * S,
            "first_scheduled_ns": 2 * S,
            "first_token_ns": 3 * S,
            "finish_ns": 5 * S,
            "prompt_tokens": 100,
            "cached_tokens": 40,
            "output_tokens": 5,
            "finish_reason": "stop",
            "retractions": 2,
        },
        {
            "id": "single",
            "arrival_ns": 2 * S,
            "first_scheduled_ns": 2 * S,
            "first_token_ns": 4 * S,
            "finish_ns": 4 * S,
            "prompt_tokens": 60,
            "cached_tokens": 0,
            "output_tokens": 1,
            "finish_reason": "length",
            "max_new_tokens": 1,
        },
        {
            "id": "refused",
            "arrival_ns": 2 * S,
            "first_scheduled_ns": None,
            "first_token_ns": None,
            "finish_ns": 2 * S,
            "prompt_tokens": 5000,
            "cached_tokens": 0,
            "output_tokens": 0,
            "finish_reason": "refused",
            "reason": "too long",
        },
        {
            "id": "aborted",
            "arrival_ns": 3 * S,
            "first_scheduled_ns": 3 * S,
            "first_token_ns": 4 * S,
            "finish_ns": 11 * S,
            "prompt_tokens": 40,
            "cached_tokens": 10,
            "output_tokens": 3,
            "finish_reason": "abort",
        },
        {
            "id": "unfinished",
            "arrival_ns": 4 * S,
            "first_scheduled_ns": None,
            "first_token_ns": None,
            "finish_ns": None,
            "prompt_tokens": 9,
            "cached_tokens": 0,
            "output_tokens": 0,
            "finish_reason": None,
        },
    ):
        writer.request(request_of(**(common | row)))
    # Serial: 4 s with 600 held and 100 cached, a second of idling, 1 s with 200 held, 300 cached.
    writer.steps.append(
        step_of(
            launch_ns=1 * S,
            start_ns=2 * S,
            end_ns=4 * S,
            commit_ns=5 * S,
            free_tokens=300,
            evictable_tokens=100,
        )
    )
    writer.steps.append(
        step_of(
            launch_ns=6 * S,
            start_ns=6 * S,
            end_ns=7 * S,
            commit_ns=7 * S,
            free_tokens=500,
            evictable_tokens=300,
        )
    )
    itl = ItlAccumulator()
    itl.add(500 * MS, 4)
    return writer.close(itl=itl.summary())


def test_requests_are_counted_by_how_they_ended(by_hand):
    summary = summarize(by_hand)
    assert summary.requests == 5
    assert summary.finished == 2
    assert (summary.refused, summary.aborted, summary.unfinished) == (1, 1, 1)
    assert summary.cut == 1
    assert summary.retractions == 2


def test_rates_are_over_the_time_from_first_arrival_to_last_end(by_hand):
    summary = summarize(by_hand)
    assert summary.duration_s == 10
    assert summary.requests_per_s == pytest.approx(0.2)
    assert summary.input_tokens_per_s == pytest.approx(16)
    assert summary.output_tokens_per_s == pytest.approx(0.6)
    assert summary.total_tokens_per_s == pytest.approx(16.6)
    assert summary.concurrency == pytest.approx((4 + 2) / 10)


def test_latencies_are_of_finished_requests_only(by_hand):
    summary = summarize(by_hand)
    assert (summary.ttft_ms.count, summary.ttft_ms.mean, summary.ttft_ms.max) == (2, 2000, 2000)
    assert (summary.e2e_ms.mean, summary.e2e_ms.p50, summary.e2e_ms.p90) == (3000, 3000, 3800)
    assert (summary.queue_ms.min, summary.queue_ms.max, summary.queue_ms.std) == (0, 1000, 500)


def test_tpot_is_of_requests_with_two_tokens_or_more(by_hand):
    summary = summarize(by_hand)
    assert (summary.tpot_ms.count, summary.tpot_ms.mean) == (1, (4000 - 2000) / 4)
    assert summary.output_tokens_per_s_per_user.mean == pytest.approx(1 / 0.5)


def test_itl_is_one_value_per_gap(by_hand):
    assert summarize(by_hand).itl_ms == Distribution(4, 500, 0, 500, 500, 500, 500, 500, 500)


def test_cache_hits_are_counted_over_what_was_admitted(by_hand):
    assert summarize(by_hand).cache_hit_ratio == pytest.approx((40 + 10) / (100 + 60 + 40))


def test_kv_use_is_a_mean_over_time_without_idling(by_hand):
    summary = summarize(by_hand)
    assert summary.kv_use_mean == pytest.approx((4 * 0.6 + 1 * 0.2) / 5)
    assert summary.kv_use_max == pytest.approx(0.6)
    assert summary.kv_filled_mean == pytest.approx((4 * 0.7 + 1 * 0.5) / 5)
    assert summary.kv_filled_max == pytest.approx(0.7)


def test_the_device_is_busy_between_start_and_end(by_hand):
    assert summarize(by_hand).device_busy_share == pytest.approx((2 + 1) / 10)


def test_goodput_counts_requests_within_every_limit(by_hand):
    assert goodput(by_hand, ttft_ms=2000) == pytest.approx(0.2)
    assert goodput(by_hand, ttft_ms=1999) == 0
    assert goodput(by_hand, e2e_ms=3000) == pytest.approx(0.1)
    assert goodput(by_hand, tpot_ms=499) == pytest.approx(0.1)  # one token: no TPOT to exceed it
    assert goodput(by_hand, ttft_ms=2000, tpot_ms=500, e2e_ms=4000) == pytest.approx(0.2)


def test_goodput_needs_a_limit_that_can_be_met(by_hand):
    with pytest.raises(ValueError, match="give ttft_ms, tpot_ms or e2e_ms"):
        goodput(by_hand)
    with pytest.raises(ValueError, match="tpot_ms is 0: a limit has to be positive"):
        goodput(by_hand, tpot_ms=0)


def test_every_figure_has_a_definition_and_every_definition_a_figure(by_hand):
    assert set(summarize(by_hand).to_dict()) == set(METRICS)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.label
        assert metric.definition
        assert metric.source


def test_gathered_and_recorded_gaps_agree(make_run):
    run = make_run(records=("requests", "tokens"))
    from_times = summarize(run).itl_ms
    gathered = ItlAccumulator()
    every = []
    for times in run.requests["token_times_ns"]:
        for gap in np.diff(times).tolist():
            gathered.add(gap, 1)
            every.append(gap)
    run.manifest["itl"] = gathered.summary()
    assert summarize(run).itl_ms == from_times
    assert from_times.p99 == np.percentile(every, 99) / MS
    assert itl_of_token_times(finished_requests(run)).summary() == gathered.summary()


def test_percentiles_are_numpys(make_run):
    run = make_run(n=57)
    times = request_times(run)
    summary = run.summary()
    for p in (50, 90, 95, 99):
        assert getattr(summary.ttft_ms, f"p{p}") == np.percentile(times.ttft, p) / MS
        assert getattr(summary.tpot_ms, f"p{p}") == pytest.approx(
            np.nanpercentile(times.tpot, p) / MS, rel=1e-12
        )


def test_times_of_day_lose_no_nanosecond(request_of):
    since_1970 = 1_790_000_000 * S + 1
    writer = RunWriter(None, {}, ())
    writer.request(
        request_of(arrival_ns=since_1970, first_token_ns=since_1970 + 1, finish_ns=since_1970 + 100)
    )
    summary = writer.close().summary()
    assert summary.ttft_ms.mean == 1 / MS
    assert summary.e2e_ms.mean == 100 / MS
    assert summary.duration_s == 100 / S


def test_an_empty_run_has_no_figures_and_no_errors():
    run = RunWriter(None, {"kv_capacity_tokens": 10}).close()
    summary = run.summary()
    assert summary.requests == 0
    assert summary.requests_per_s is None
    assert summary.ttft_ms is None
    assert summary.kv_use_mean is None
    assert "TTFT" in str(run)


def test_without_steps_there_is_no_kv_use(request_of):
    writer = RunWriter(None, {"kv_capacity_tokens": 10}, ("requests",))
    writer.request(request_of())
    summary = writer.close().summary()
    assert summary.kv_use_mean is None
    assert summary.device_busy_share is None
    assert summary.finished == 1
