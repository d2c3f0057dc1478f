"""Plots come from the records alone, are the same each time, and leave matplotlib as it was."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from traces.plots import (
    THEMES,
    batch_size,
    by_tenant,
    cache_hits,
    kv_use,
    latency_ecdf,
    queue_length,
    save_figure,
    save_plots,
    throughput,
)
from traces.plots.binning import mean_by_bin, mean_over_time
from traces.plots.output_rate import tokens_given
from traces.plots.tenants import OTHERS, SHOWN, tenant_names
from traces.records import RecordError, RunWriter
from twin.cli import main

PLOTS = ["latency", "throughput", "queue_length", "batch_size", "kv_use", "cache_hits"]


@pytest.mark.parametrize(
    ("theme", "kind", "begins"), [("light", "png", b"\x89PNG"), ("dark", "svg", b"<?xml")]
)
def test_every_plot_is_saved_and_the_same_each_time(tmp_path, make_run, theme, kind, begins):
    runs = [make_run(), make_run(slower_ms=10)]
    first = save_plots(runs, tmp_path / "a", ["fcfs", "lpm"], theme=theme, kind=kind)
    again = save_plots(runs, tmp_path / "b", ["fcfs", "lpm"], theme=theme, kind=kind)
    assert [file.name for file in first] == [f"{name}.{kind}" for name in PLOTS]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.read_bytes().startswith(begins)
        assert b"dc:date" not in one.read_bytes()


def test_plots_that_need_steps_are_left_out_without_them(tmp_path, request_of):
    writer = RunWriter(None, {}, ("requests",))
    writer.request(request_of())
    assert [file.stem for file in save_plots(writer.close(), tmp_path)] == [
        "latency",
        "throughput",
        "cache_hits",
    ]


def test_an_empty_run_can_be_plotted(tmp_path):
    run = RunWriter(None, {"kv_capacity_tokens": 5}).close()
    assert len(save_plots(run, tmp_path)) == 6


def test_kv_use_needs_a_capacity(request_of):
    run = RunWriter(None, {}).close()
    with pytest.raises(RecordError, match="no kv_capacity_tokens"):
        kv_use(run)


@pytest.mark.parametrize("plot", [latency_ecdf, throughput, queue_length, batch_size, cache_hits])
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
    assert tokens_given(run.requests, end)[0] == pytest.approx(run.requests["output_tokens"].sum())


def test_throughput_without_token_times_is_close_to_that_with(make_run):
    spread, counted = make_run(), make_run(records=("requests", "tokens"))
    times = np.linspace(0, float(spread.requests["finish_ns"].max()), 50)
    # Between its first and last token a request is at most one token off.
    near = np.abs(tokens_given(spread.requests, times) - tokens_given(counted.requests, times))
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


# -- themes -----------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.1 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_lines_and_text_stand_out_from_their_background(theme):
    assert min(contrast(colour, theme.background) for colour in theme.colours) >= 3
    assert contrast(theme.ink, theme.background) >= 7
    # areas differ in grey as well
    levels = [luminance(fill) for fill in theme.fills]
    assert min(np.abs(np.diff([*levels, luminance(theme.background)]))) > 0.005
    assert contrast(theme.fills[0], theme.fills[1]) > 2
    assert contrast(theme.fills[1], theme.fills[2]) > 1.5


@pytest.mark.parametrize(
    "plot",
    [latency_ecdf, throughput, queue_length, batch_size, kv_use, cache_hits, by_tenant],
)
def test_a_theme_colours_all_of_a_figure(make_run, plot):
    figure = plot(make_run(n=20), theme="dark")
    dark = THEMES["dark"]
    backgrounds = {mpl.colors.to_hex(part.get_facecolor()) for part in (figure, *figure.axes)}
    assert backgrounds == {dark.background.lower()}
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    texts += [ax.xaxis.label for ax in figure.axes] + [figure.axes[0].title]
    texts += [label for ax in figure.axes for label in ax.get_yticklabels() if label.get_text()]
    written = {mpl.colors.to_hex(text.get_color()) for text in texts if text.get_text()}
    assert written == {dark.ink.lower()}
    with pytest.raises(ValueError, match="unknown theme 'mauve': known are light, dark"):
        plot(make_run(n=20), theme="mauve")


def test_a_file_is_png_or_svg(make_run, tmp_path):
    with pytest.raises(ValueError, match="a plot is written as png or svg"):
        save_plots(make_run(n=5), tmp_path / "new", kind="bmp")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"x\.jpeg: a plot is written as png or svg"):
        save_figure(kv_use(make_run(n=5)), tmp_path / "x.jpeg")


# -- cache hits and tenants -------------------------------------------------------------------------


def test_cache_hits_up_to_the_end_are_the_hit_ratio_of_the_table(make_run):
    run = make_run(n=100)
    in_bins, so_far = (ax.lines[0].get_ydata() for ax in cache_hits(run).axes)
    assert so_far[-1] == pytest.approx(100 * run.summary().cache_hit_ratio)
    assert in_bins.min() <= so_far[-1] <= in_bins.max()


def shared_run(request_of, names):
    """A request a second for each of these tenants in turn; each waits half a second."""
    writer = RunWriter(None, {})
    for i, tenant in enumerate(names):
        at = i * 1_000_000_000
        times = {"first_scheduled_ns": at + 500_000_000, "first_token_ns": at + 600_000_000}
        row = {"id": str(i), "arrival_ns": at, "finish_ns": at + 900_000_000, **times}
        writer.request(request_of(tenant=tenant, output_tokens=10, **row))
    return writer.close()


def test_tenants_have_a_line_each_and_a_run_a_row(request_of):
    runs = [shared_run(request_of, "aabaab"), shared_run(request_of, "ababab")]
    figure = by_tenant(runs, ["fcfs", "fair"])
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert len(figure.axes) == 6
    for row, shares in enumerate([(4, 2), (3, 3)]):
        _, rate, queue = figure.axes[3 * row : 3 * row + 3]
        for line, waiting, requests in zip(rate.lines, queue.lines, shares, strict=True):
            seconds = np.diff(line.get_xdata()).mean()
            assert line.get_ydata().sum() * seconds == pytest.approx(10 * requests)
            assert waiting.get_ydata().sum() * seconds == pytest.approx(0.5 * requests)
    # columns share their scales, and no line is cut off
    for ax in figure.axes:
        assert ax.get_ylim()[1] >= max(line.get_ydata().max() for line in ax.lines)


def test_tenants_are_drawn_only_where_there_are_several(request_of, tmp_path):
    one = save_plots(shared_run(request_of, "aaa"), tmp_path / "one")
    two = save_plots(shared_run(request_of, ["a", None]), tmp_path / "two")
    assert "tenants" not in [file.stem for file in one]
    assert "tenants" in [file.stem for file in two]


def test_of_many_tenants_the_smallest_are_drawn_as_one(request_of):
    names = [chr(ord("a") + i) for i in range(12) for _ in range(20 - i)]
    run = shared_run(request_of, names)
    assert tenant_names([run]) == [*"abcdef"[:SHOWN], OTHERS]
    rate = by_tenant(run).axes[1]
    seconds = np.diff(rate.lines[-1].get_xdata()).mean()
    others = sum(20 - i for i in range(SHOWN, 12))
    assert rate.lines[-1].get_ydata().sum() * seconds == pytest.approx(10 * others)


# -- the command ------------------------------------------------------------------------------------


def test_the_command_draws_runs_into_a_folder(make_run, tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / name, n=20)
    arguments = ["plot", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "p")]
    result = CliRunner().invoke(main, [*arguments, "--theme", "dark", "--format", "svg"])
    assert result.exit_code == 0, result.output
    files = sorted((tmp_path / "p").iterdir())
    assert sorted(result.stdout.splitlines()) == [str(file) for file in files]
    assert [file.name for file in files] == sorted(f"{name}.svg" for name in PLOTS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--theme", "mauve"), "'mauve' is not one of 'light', 'dark'"),
        (("--format", "bmp"), "'bmp' is not one of 'png', 'svg'"),
        (("--names", "a,b"), "1 runs need as many different names; given: a, b"),
    ],
)
def test_what_cannot_be_drawn_is_said(make_run, tmp_path, arguments, says):
    make_run(tmp_path / "run", n=3)
    out = tmp_path / "p"
    result = CliRunner().invoke(
        main, ["plot", str(tmp_path / "run"), "--out", str(out), *arguments]
    )
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert not out.exists()
