"""Plots come from the records alone, are the same each time, and leave matplotlib as it was."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.plots import batch_size, kv_use, latency_ecdf, queue_length, save_plots, throughput
from traces.plots.binning import mean_by_bin, mean_over_time
from traces.plots.output_rate import tokens_until
from traces.records import RecordError, RunWriter

PLOTS = ["latency", "throughput", "queue_length", "batch_size", "kv_use"]


def test_every_plot_is_saved_and_the_same_each_time(tmp_path, make_run):
    runs = [make_run(), make_run(slower_ms=10)]
    first = save_plots(runs, tmp_path / "a", ["fcfs", "lpm"])
    again = save_plots(runs, tmp_path / "b", ["fcfs", "lpm"])
    assert [file.stem for file in first] == PLOTS
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.read_bytes().startswith(b"\x89PNG")


def test_plots_that_need_steps_are_left_out_without_them(tmp_path, request_of):
    writer = RunWriter(None, {}, ("requests",))
    writer.request(request_of())
    assert [file.stem for file in save_plots(writer.close(), tmp_path)] == PLOTS[:2]


def test_an_empty_run_can_be_plotted(tmp_path):
    run = RunWriter(None, {"kv_capacity_tokens": 5}).close()
    assert len(save_plots(run, tmp_path)) == 5


def test_kv_use_needs_a_capacity(request_of):
    run = RunWriter(None, {}).close()
    with pytest.raises(RecordError, match="no kv_capacity_tokens"):
        kv_use(run)


@pytest.mark.parametrize("plot", [latency_ecdf, throughput, queue_length, batch_size])
def test_every_run_is_in_the_legend_and_axes_have_units(make_run, plot):
    figure = plot([make_run(n=50), make_run(n=50, slower_ms=9)], ["fcfs", "lpm"])
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["fcfs", "lpm"]
    assert all(len(ax.lines) == 2 for ax in figure.axes)
    assert figure.axes[-1].get_xlabel()
    assert figure.axes[0].get_ylabel()


def test_matplotlib_is_left_as_it_was(make_run, tmp_path):
    before = dict(mpl.rcParams)
    save_plots(make_run(n=20), tmp_path)
    assert dict(mpl.rcParams) == before


def test_importing_costs_nothing_until_something_is_used():
    code = (
        "import sys, traces.records, traces.plots\n"
        "from traces.records import ItlAccumulator, RunWriter, load_run\n"
        "RunWriter(None, {}).steps.append(())\n"
        "heavy = {'pandas', 'pyarrow', 'scipy', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_tokens_are_in_the_throughput(make_run):
    run = make_run()
    end = np.array([float(run.requests["finish_ns"].max())])
    assert tokens_until(run, end)[0] == pytest.approx(run.requests["output_tokens"].sum())


def test_throughput_without_token_times_is_close_to_that_with(make_run):
    spread, counted = make_run(), make_run(records=("requests", "tokens"))
    times = np.linspace(0, float(spread.requests["finish_ns"].max()), 50)
    # Between its first and last token a request is at most one token off.
    near = np.abs(tokens_until(spread, times) - tokens_until(counted, times))
    assert near.max() <= 30


CHANGES = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50)), min_size=1, max_size=20).map(
    sorted
)


@given(CHANGES)
def test_means_over_time_are_those_of_walking_every_instant(changes):
    times = np.array([time for time, _ in changes], np.int64)
    values = np.array([value for _, value in changes], float)
    every = np.zeros(100)
    for time, value in changes:
        every[time:] = value
    edges = np.arange(0.0, 101.0, 10)
    assert mean_over_time(times, values, edges) == pytest.approx(every.reshape(10, 10).mean(axis=1))


def test_means_by_bin_pass_over_empty_bins():
    mean, most = mean_by_bin(
        np.array([1, 2, 25]), np.array([4.0, 6.0, 7.0]), np.array([0.0, 10, 20, 30])
    )
    assert mean.tolist()[::2] == [5, 7]
    assert most.tolist()[::2] == [6, 7]
    assert np.isnan(mean[1])


def test_idle_time_counts_as_an_empty_queue(request_of, step_of):
    writer = RunWriter(None, {})
    writer.request(request_of(arrival_ns=0, finish_ns=10_000_000))
    for launch in (0, 9_000_000):  # 1 ms of work, 8 ms of nothing, 1 ms of work
        writer.steps.append(step_of(launch_ns=launch, commit_ns=launch + 1_000_000, running=4))
    figure = queue_length(writer.close())
    running = figure.axes[1].lines[0].get_ydata()
    assert running.max() == pytest.approx(4)
    assert running[len(running) // 2] == 0
