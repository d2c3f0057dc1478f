"""Generated workloads have the statistics of the traces they are fitted to."""

from __future__ import annotations

import json
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from traces import read_trace, write_native
from traces.generate import generate, presets
from traces.generate.arrivals import ArrivalProcess
from traces.generate.fit import find_follow_ups, fit_conversation
from traces.generate.knots import PERCENTILES, Knots
from traces.inspect import inspect

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
MOONCAKE = SHARED / "mooncake" / "conversation_trace.jsonl.gz"
SEEDS = (0, 1, 2)

# Quantiles of the traces at PERCENTILES.
MOONCAKE_INPUT = (
    *(891, 894, 896, 901, 964, 1261, 1662, 2306.5, 3263, 4251, 4993, 5870.5, 6909),
    *(8186.5, 9570, 11237.5, 13196, 15367, 17869, 21464, 27367, 39550.5, 66448.6),
    *(85400.4, 100810.25, 126195),
)
MOONCAKE_OUTPUT = (
    *(1, 3, 3, 10, 24, 46, 100, 156.5, 213, 256, 291, 322.5, 350, 375, 399, 423, 447, 472, 504),
    *(543, 597, 698, 891.8, 1118.5, 1567.6, 2000),
)


@pytest.fixture(scope="module", params=SEEDS)
def conversation(request):
    return generate("mooncake-conversation", seed=request.param)


def ks_distance(sample: list[int], quantiles: tuple[float, ...]) -> float:
    """Largest distance between the sample's distribution and the one through the quantiles."""
    drawn = np.rint(Knots(quantiles).at((np.arange(100_000) + 0.5) / 100_000))
    grid = np.unique([*sample, *drawn])
    below, expected = (
        np.searchsorted(np.sort(one), grid, side="right") / len(one) for one in (sample, drawn)
    )
    return float(np.abs(below - expected).max())


def test_rate_and_burstiness_of_mooncake_conversation(conversation):
    summary = inspect(conversation)
    assert summary.requests == 12_031
    assert summary.rate_per_s == pytest.approx(3.401, rel=0.03)
    assert summary.interarrival_cv == pytest.approx(1.0, abs=0.05)
    assert 0.95 < summary.dispersion[1] < 1.15


def test_lengths_of_mooncake_conversation(conversation):
    assert ks_distance([len(r.prompt) for r in conversation], MOONCAKE_INPUT) < 0.045
    assert ks_distance([len(r.output) for r in conversation], MOONCAKE_OUTPUT) < 0.015
    assert abs(inspect(conversation).spearman_in_out) < 0.08


def test_prefix_sharing_of_mooncake_conversation(conversation):
    summary = inspect(conversation)
    assert {r.prompt.hash_ids[0] for r in conversation} == {0}
    assert summary.endless_hit_ratio == pytest.approx(0.3736, abs=0.02)
    measured = {1_000: 0.045, 3_000: 0.067, 10_000: 0.216, 30_000: 0.332, 100_000: 0.371}
    assert summary.lru_hit_ratio == pytest.approx(measured, abs=0.025)


def test_turns_of_mooncake_conversation(conversation):
    found = find_follow_ups(conversation)
    extending = found.gap_ns[found.extends] / 1e9
    assert found.extends.sum() / len(conversation) == pytest.approx(0.329, abs=0.02)
    assert np.median(extending) == pytest.approx(123, rel=0.12)
    assert np.percentile(extending, 90) == pytest.approx(474, rel=0.12)
    sessions = [request.session for request in conversation]
    assert all(
        sessions[one] == sessions[other]
        for one, other in zip(found.request, found.parent, strict=True)
    )
    # a prompt of one full block leaves nothing to recognise its follow-up by
    assert len(set(sessions)) == pytest.approx(len(conversation) - len(found.request), rel=0.01)


def test_azure_conversation():
    workload = generate("azure-conversation")
    summary = inspect(workload)
    model = presets()["azure-conversation"].model
    assert summary.requests == 19_366
    assert summary.rate_per_s == pytest.approx(5.530, rel=0.03)
    assert summary.interarrival_cv == pytest.approx(1.094, abs=0.05)
    assert summary.dispersion[60] == pytest.approx(16.1, rel=0.3)
    assert ks_distance([len(r.prompt) for r in workload], model.input.values) < 0.015
    assert ks_distance([len(r.output) for r in workload], model.output.values) < 0.015
    assert summary.endless_hit_ratio == 0


@pytest.mark.parametrize("preset", sorted(presets()))
def test_fewer_requests_are_the_first_of_more(preset):
    more = generate(preset, n=400, seed=7)
    assert generate(preset, n=150, seed=7).requests == more.requests[:150]
    end_s = more.requests[99].arrival_ns / 1e9
    timed = generate(preset, duration_s=end_s, seed=7)
    assert timed.requests == more.requests[:99]
    assert generate(preset, duration_s=end_s, n=20, seed=7).requests == more.requests[:20]


@pytest.mark.parametrize("preset", sorted(presets()))
def test_another_seed_is_another_workload(preset):
    assert generate(preset, n=50, seed=1).requests != generate(preset, n=50, seed=2).requests
    assert generate(preset, n=50, seed=1).requests == generate(preset, n=50, seed=1).requests


def test_the_same_bytes_everywhere(tmp_path):
    digests = {}
    for preset in sorted(presets()):
        write_native(generate(preset, n=200, seed=1), tmp_path / preset)
        rows = (tmp_path / preset).read_bytes().split(b"\n", 1)[1]  # the header may be reworded
        digests[preset] = sha256(rows).hexdigest()[:16]
    assert digests == {
        "azure-conversation": "ace387783f4dd7d7",
        "mooncake-conversation": "769687d3d962897b",
    }


def test_rate_is_what_was_asked_for_and_steady():
    for rate in (0.5, 40.0):
        workload = generate("azure-conversation", n=10_000, rate=rate)
        half_s = [workload.requests[row].arrival_ns / 1e9 for row in (4_999, 9_999)]
        assert 5_000 / half_s[0] == pytest.approx(rate, rel=0.05)
        assert 10_000 / half_s[1] == pytest.approx(rate, rel=0.04)
    assert len(generate(duration_s=1_000, rate=2.0)) == pytest.approx(2_000, rel=0.08)


def test_a_whole_trace_takes_less_than_a_second():
    presets()
    start = time.process_time()
    generate()
    assert time.process_time() - start < 1.0


def test_minutes_drive_the_rate_over_and_over():
    process = ArrivalProcess(shape=1.0, minute_counts=(600, 0, 60), span_s=150.0)
    assert process.rate_per_s == pytest.approx(4.4)
    times = process.times_ns(np.random.default_rng(0), n=None, duration_s=15_000)
    within = (times / 1e9) % 150
    assert (np.diff(times) >= 0).all()
    assert not ((within >= 60) & (within < 120)).any()
    assert (within < 60).sum() == pytest.approx(60_000, rel=0.02)
    assert (within >= 120).sum() == pytest.approx(6_000, rel=0.06)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "sharegpt"}, "known: azure-conversation, mooncake-conversation"),
        ({"n": 0}, "n must be at least 1"),
        ({"duration_s": 0}, "duration_s must be a positive number"),
        ({"rate": float("nan")}, "rate must be a positive number"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"duration_s": 1e-6}, "no request arrives"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(**arguments)


def test_presets_name_their_source_and_licence():
    for preset in presets().values():
        assert preset.source.startswith("https://github.com/")
        assert preset.licence in {"Apache-2.0", "CC-BY"}


def test_knots_are_met_and_kept_in_order():
    knots = Knots(MOONCAKE_INPUT)
    assert knots.at(np.array(PERCENTILES) / 100) == pytest.approx(np.array(MOONCAKE_INPUT))
    drawn = knots.at(np.random.default_rng(0).random(1_000))
    assert drawn.min() >= 891
    assert drawn.max() <= 126_195
    with pytest.raises(ValueError, match="26 knots"):
        Knots((1.0, 2.0))
    with pytest.raises(ValueError, match="ascending"):
        Knots(MOONCAKE_INPUT[::-1])


def test_a_fit_to_a_generated_trace_gives_back_what_it_was_generated_from():
    fitted = fit_conversation(generate(seed=3))
    model = presets()["mooncake-conversation"].model
    assert fitted["repeats"] == pytest.approx(model.repeats, abs=0.01)
    assert fitted["continues"][0] == pytest.approx(model.continues[0], abs=0.06)
    assert fitted["opener_continues"]["chances"][1] == pytest.approx(
        model.opener_continues.chances[1], abs=0.05
    )
    assert fitted["cuts"]["chances"][3] == pytest.approx(model.cuts.chances[3], abs=0.06)


@pytest.mark.skipif(not MOONCAKE.exists(), reason="the Mooncake trace is not here")
def test_the_bundled_parameters_are_those_of_the_trace():
    bundled = Path(__file__).parents[2] / "traces" / "generate" / "presets.json"
    model = json.loads(bundled.read_text())["mooncake-conversation"]["model"]
    assert fit_conversation(read_trace(MOONCAKE)) == model
