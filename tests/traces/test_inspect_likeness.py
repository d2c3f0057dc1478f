"""Workloads side by side: their distances, their table and their plot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import SyntheticTokens, TraceRequest, Workload
from traces.generate import generate
from traces.inspect import measure
from traces.likeness import distances, ks_distance, side_by_side
from traces.plots.save import save_figure
from traces.plots.workloads import workload_likeness

samples = st.lists(st.integers(0, 20), min_size=1, max_size=30)


@given(samples, samples)
def test_the_distance_is_that_of_kolmogorov_and_smirnov(one, other):
    def share(sample, value):
        return sum(each <= value for each in sample) / len(sample)

    expected = max(abs(share(one, value) - share(other, value)) for value in range(21))
    assert ks_distance(np.array(one), np.array(other)) == pytest.approx(expected)


def test_there_is_no_distance_to_nothing():
    assert ks_distance(np.array([]), np.array([1])) is None


@pytest.fixture(scope="module")
def several():
    names = ("mooncake-conversation", "weka-agents")
    return [measure(generate(name, n=200), block_size=512) for name in names]


def test_a_workload_is_at_no_distance_from_itself(several):
    found = distances(several[1], several[1])
    assert set(found.values()) == {0.0}
    assert distances(several[0], several[1])["wait after an answer"] is None
    assert distances(*several)["input"] > 0.5


def test_the_table_has_a_column_each_and_the_distances_to_the_first(several):
    headings, rows = side_by_side([*several, several[0]])
    assert headings == ["", "mooncake-conversation", "weka-agents", "mooncake-conversation"]
    assert all(len(row) == 4 for row in rows)
    found = {row[0]: row[1:] for row in rows}
    assert found["requests"] == ["200", "200", "200"]
    apart = found["KS distance, input"]
    assert (apart[0], apart[2]) == ("", "0.000")
    assert float(apart[1]) > 0.5
    _, alone = side_by_side(several[:1])
    assert not any("distance" in row[0] for row in alone)


def test_blocks_of_different_sizes_are_not_compared(several):
    other = measure(generate("lmsys", n=5), block_size=16)
    with pytest.raises(ValueError, match=r"blocks of \[16, 512\] tokens"):
        side_by_side([several[0], other])


def test_the_plot_shows_what_the_workloads_have(several, tmp_path):
    figure = workload_likeness(several, ["one", "other"])
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [
        "Prompt length",
        "Answer length",
        "Time between arrivals",
        "Prompt tokens an LRU cache would find",
    ]
    lines = figure.axes[-1].get_lines()
    ratios = [100 * one.reuse.hit_ratio() for one in several]
    assert [line.get_ydata()[-1] for line in lines] == pytest.approx(ratios)
    medians = [np.median(one.inputs) for one in several]
    for line, median in zip(figure.axes[0].get_lines(), medians, strict=True):
        assert np.interp(50, line.get_ydata(), line.get_xdata()) == pytest.approx(median, rel=0.05)
    sessions = workload_likeness(several[1:], theme="dark")
    assert "Wait after an answer" in [ax.get_title(loc="left") for ax in sessions.axes]
    for file in ("a.png", "b.png"):
        save_figure(workload_likeness(several), tmp_path / file)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_plot_of_one_request_is_a_plot(tmp_path):
    only = TraceRequest("r", 0, SyntheticTokens(0, 5), SyntheticTokens(1, 1))
    save_figure(workload_likeness([measure(Workload("w", [only]))]), tmp_path / "w.png")


def test_what_cannot_be_drawn_is_refused(several):
    with pytest.raises(ValueError, match="a name for each workload"):
        workload_likeness(several, ["one"])
    with pytest.raises(ValueError, match="unknown theme"):
        workload_likeness(several, theme="sepia")
