"""Runs side by side: differences to the first, and whether they are more than chance."""

import json

import numpy as np
import pytest

from traces.records import compare, summary_table
from traces.records.comparison import block_interval
from traces.records.tables import digits, to_text


def test_the_first_run_is_what_others_are_compared_with(make_run):
    result = compare([make_run(), make_run(slower_ms=50)], ["before", "after"])
    assert result.names == ("before", "after")
    [ttft] = [d for d in result.paired if d.metric == "ttft_ms"]
    assert ttft.run == "after"
    assert ttft.mean_ms == pytest.approx(50)
    [row] = [row for row in result.rows if (row.metric, row.statistic) == ("ttft_ms", "mean")]
    before, after = row.values
    assert f"{100 * (after / before - 1):+.1f} %" in str(result)


@pytest.mark.parametrize(
    ("slower_ms", "verdict"), [(40, "worse"), (-5, "better"), (0, "no difference shown")]
)
def test_a_difference_has_a_verdict(make_run, slower_ms, verdict):
    result = compare([make_run(), make_run(slower_ms=slower_ms)], ["a", "b"])
    assert {d.verdict for d in result.paired if d.metric == "ttft_ms"} == {verdict}
    assert {d.verdict for d in result.paired if d.metric == "tpot_ms"} == {"no difference shown"}


def test_noise_alone_is_no_difference(make_run):
    values = np.random.default_rng(5).normal(0, 10, 900)
    low, high = block_interval(values)
    assert low < 0 < high
    assert low < values.mean() < high


def test_intervals_hold_the_truth_as_often_as_they_say_where_requests_depend():
    """Bursts: each stretch of 40 requests shares its luck. Blocks know; single requests do not."""
    rng = np.random.default_rng(1)
    held = naive = 0
    for _ in range(60):
        luck = np.repeat(rng.normal(0, 5, 90), 40)
        values = luck + rng.normal(0, 3, 3600)
        low, high = block_interval(values)
        held += low <= 0 <= high
        naive += abs(values.mean()) <= 1.96 * values.std() / 60
    assert held >= 52  # of 60; 57 expected
    assert naive <= 35


def test_intervals_repeat():
    values = np.random.default_rng(2).exponential(1, 5000)
    assert block_interval(values) == block_interval(values.copy())


def test_few_requests_have_no_interval(make_run):
    result = compare([make_run(n=30), make_run(n=30, slower_ms=9)], ["a", "b"])
    assert {(d.verdict, d.low_ms) for d in result.paired} == {("too few requests", None)}
    assert "too few requests" in str(result)


def test_other_requests_are_not_paired(make_run):
    result = compare([make_run(), make_run(seed=1)], ["a", "b"])
    assert result.paired == ()
    assert result.unpaired == ("b",)
    assert "b did not serve the same requests as a" in str(result)


def test_requests_only_one_run_finished_are_left_out_of_the_pairs(make_run):
    run, other = make_run(), make_run()
    other.requests.loc[:9, "finish_reason"] = "abort"
    result = compare([run, other], ["a", "b"])
    assert {d.requests for d in result.paired if d.metric == "ttft_ms"} == {390}


def test_three_runs_fit_a_hundred_columns(make_run):
    runs = [make_run(slower_ms=ms) for ms in (0, 20_000, 50_000)]
    names = ["first-come-first-served", "longest-prefix-match", "depth-first-weighted"]
    for table in (compare(runs, names).table(), summary_table(runs, names)):
        text = to_text(table, width=100)
        assert max(map(len, text.splitlines())) <= 100
        assert "…" not in text
        assert all(name in text for name in names)


def test_a_comparison_is_json_and_html(make_run):
    result = compare([make_run(), make_run(slower_ms=5)], ["a", "<b>"])
    read = json.loads(json.dumps(result.to_dict()))
    assert [run["name"] for run in read["runs"]] == ["a", "<b>"]
    assert read["paired"][0]["metric"] == "ttft_ms"
    assert repr(result) == "<Comparison of a, <b>>"
    html = result._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


def test_what_to_know_of_the_runs_stands_below_the_comparison(make_run):
    runs = [make_run(), make_run(slower_ms=5)]
    for run in runs:
        run.manifest["approximations"] = ["sampling was not measured"]
    runs[1].manifest["flags"] = {"decode_attention": 7}
    printed = str(compare(runs, ["a", "b"])).splitlines()
    assert printed[-2:] == [
        "b: not measured: decode_attention in 7 of 0 steps",
        "all: sampling was not measured",
    ]


def test_why_requests_were_refused_stands_below_the_table(make_run):
    run = make_run()
    run.requests.loc[[7, 9], "finish_reason"] = "refused"
    run.requests.loc[[7, 9], "reason"] = ["the prompt is too long", "so is this"]
    assert str(run).splitlines()[-1] == "run: refused, the first: r7: the prompt is too long"


def test_there_is_no_share_of_what_is_shown_as_zero(make_run):
    runs = [make_run(), make_run()]
    for run, cached in zip(runs, (2, 1), strict=True):
        run.requests["cached_tokens"] = [cached] + [0] * (len(run.requests) - 1)
    [line] = [x for x in str(compare(runs)).splitlines() if "cache hit ratio" in x]
    assert line.split() == ["cache", "hit", "ratio", "(%)", "0.0", "0.0"]


def test_names_are_one_each(make_run):
    run = make_run(n=5)
    assert compare([run, run]).names == ("run", "run (2)")
    with pytest.raises(ValueError, match="2 runs need as many different names"):
        compare([run, run], ["a"])
    with pytest.raises(ValueError, match="different names"):
        compare([run, run], ["a", "a"])
    with pytest.raises(ValueError, match="no run given"):
        compare([])


def test_a_run_shows_itself(make_run):
    run = make_run()
    assert "TTFT (ms)" in str(run)
    assert "<table>" in run._repr_html_()
    assert repr(run) == "<Run run (in memory): complete>"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (99.96, "100"), (12345.6, "12,346")],
)
def test_three_digits_are_enough(value, text):
    assert digits(value) == text
