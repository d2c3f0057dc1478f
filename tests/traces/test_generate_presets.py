"""Generated workloads have the statistics of the traces they are fitted to.

Kolmogorov-Smirnov distances are held to those that the best published fits of a family have to the
same trace; figures of traces that are not at hand are those measured of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from traces import Workload, read_trace
from traces.generate import generate, preset
from traces.generate.conversation import Conversation
from traces.generate.fit import find_follow_ups, fit_conversation
from traces.generate.knots import Knots
from traces.generate.lengths import Lengths
from traces.inspect import Measured, inspect, measure
from traces.likeness import distances, ks_distance

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
MOONCAKE = SHARED / "mooncake" / "conversation_trace.jsonl.gz"
AZURE = SHARED / "azure2023" / "AzureLLMInferenceTrace_conv.csv.gz"
WEKA = SHARED / "weka" / "weka_0001-0600.tar.zst"
FITS = SHARED / "fits.json"
SEEDS = (0, 1, 2)
EVEN = (np.arange(100_000) + 0.5) / 100_000

# Quantiles of traces at the usual percentiles, where a preset does not hold them itself.
MOONCAKE_INPUT = (
    *(891, 894, 896, 901, 964, 1261, 1662, 2306.5, 3263, 4251, 4993, 5870.5, 6909),
    *(8186.5, 9570, 11237.5, 13196, 15367, 17869, 21464, 27367, 39550.5, 66448.6),
    *(85400.4, 100810.25, 126195),
)
SYNTHETIC_INPUT = (
    *(13, 16, 18, 22, 30, 45, 88, 277, 912.6, 2777, 4364.8, 6657, 11587, 14724.4, 16290.2),
    *(17642, 19408.6, 23175, 28425.2, 34319.2, 38611.2, 48904.6, 56631, 66456.16, 76328, 191378),
)
SYNTHETIC_OUTPUT = (
    *(1, 2, 2, 2, 4, 6, 8, 11, 16, 22, 32, 49, 69, 92, 126, 169, 210.4, 250, 288.6, 332.2, 389),
    *(519, 688.8, 768.08, 782, 893),
)
WEKA_INPUT = (
    *(6343, 16162, 20350.64, 30544, 42419.6, 50939.9, 58868.6, 66519.25, 74087.5, 81812.95),
    *(89187, 96296.8, 103659, 110797.2, 117447.8, 124398.9, 131156.2, 138565.5, 147418.4),
    *(173392.15, 233633, 300666.05, 429863.12, 498518.66, 574313.54, 894371),
)


def spread(quantiles) -> np.ndarray:
    """A sample of whole numbers that has these quantiles."""
    knots = quantiles if isinstance(quantiles, Knots) else Knots(values=quantiles)
    return np.rint(knots.at(EVEN))


def lengths(work) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([len(request.prompt) for request in work]),
        np.array([len(request.output) for request in work]),
    )


@pytest.fixture(scope="module", params=SEEDS)
def conversation(request) -> Workload:
    return generate("mooncake-conversation", seed=request.param)


@pytest.mark.parametrize(
    ("name", "n", "best_input", "best_output", "spearman"),
    [
        ("azure-code", 8_819, 0.034, 0.065, 0.0),
        ("azure-conversation", 19_366, 0.15, 0.055, 0.0),
        ("sharegpt", 58_787, 0.034, 0.022, 0.15),
        ("lmsys", 100_000, 0.025, 0.044, 0.2197),
        ("arxiv-summarization", 28_257, 0.084, 0.026, -0.1138),
    ],
)
def test_lengths_alone(name, n, best_input, best_output, spearman):
    work, fitted = generate(name), preset(name).lengths
    inputs, outputs = lengths(work)
    assert len(work) == n
    assert ks_distance(inputs, spread(fitted.input)) < min(best_input, 0.02)
    assert ks_distance(outputs, spread(fitted.output)) < min(best_output, 0.02)
    summary = inspect(work.limit(20_000))
    assert summary.spearman_in_out == pytest.approx(spearman, abs=0.03)
    assert summary.endless_hit_ratio == 0


@pytest.mark.skipif(not FITS.exists(), reason="the fits are not here")
@pytest.mark.parametrize(
    ("name", "trace"),
    [
        ("azure-code", "azure2023_code"),
        ("azure-conversation", "azure2023_conv"),
        ("sharegpt", "nanoflow_sharegpt"),
        ("lmsys", "nanoflow_lmsys"),
        ("arxiv-summarization", "vidur_arxiv"),
        ("mooncake-conversation", "mooncake_conversation"),
        ("mooncake-synthetic", "mooncake_synthetic"),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_lengths_are_as_near_to_the_fits_as_these_are_to_the_traces(name, trace, seed):
    fits = json.loads(FITS.read_text())[trace]["lengths"]
    for found, which in zip(lengths(generate(name, seed=seed)), ("in", "out"), strict=True):
        stated = min(fit["ks"] for fit in fits[which].values() if isinstance(fit, dict))
        quantiles = tuple(fits[which]["quantile_knots"])
        assert ks_distance(found, spread(quantiles)) < stated


@pytest.mark.parametrize("seed", SEEDS)
def test_azure_code_comes_in_bursts(seed):
    gaps = np.diff([request.arrival_ns for request in generate("azure-code", n=60_000, seed=seed)])
    gaps_s = gaps / 1e9
    phases = ((0.34003, 0.001592), (0.64519, 0.142487), (0.01479, 20.096529))
    ordered = np.sort(gaps_s)
    cdf = sum(w * (1 - np.exp(-ordered / m)) for w, m in phases)
    steps = np.arange(1, len(ordered) + 1) / len(ordered)
    assert np.abs(cdf - steps).max() < 0.02  # and the fit is .093 from the trace
    assert 1 / gaps_s.mean() == pytest.approx(2.566, rel=0.15)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(13.15, rel=0.15)
    assert gaps_s[gaps_s <= 10].std() / gaps_s[gaps_s <= 10].mean() == pytest.approx(3, rel=0.15)
    assert (gaps_s > 10).mean() == pytest.approx(45 / 8_818, rel=0.2)


def test_azure_conversation_drifts_by_the_minute():
    summary = inspect(generate("azure-conversation"))
    assert summary.rate_per_s == pytest.approx(5.530, rel=0.03)
    assert summary.interarrival_cv == pytest.approx(1.094, abs=0.05)
    assert summary.dispersion[60] == pytest.approx(16.1, rel=0.3)


def test_rate_and_burstiness_of_mooncake_conversation(conversation):
    summary = inspect(conversation)
    assert summary.requests == 12_031
    assert summary.rate_per_s == pytest.approx(3.401, rel=0.03)
    assert summary.interarrival_cv == pytest.approx(1.0, abs=0.05)
    assert 0.95 < summary.dispersion[1] < 1.15


def test_lengths_of_mooncake_conversation(conversation):
    inputs, outputs = lengths(conversation)
    assert ks_distance(inputs, spread(MOONCAKE_INPUT)) < 0.045
    assert ks_distance(outputs, spread(preset("mooncake-conversation").lengths.output)) < 0.015
    assert abs(inspect(conversation).spearman_in_out) < 0.08


def test_prefix_sharing_of_mooncake_conversation(conversation):
    summary = inspect(conversation)
    assert {request.prompt.hash_ids[0] for request in conversation} == {0}
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


@pytest.mark.parametrize("seed", range(5))
def test_mooncake_synthetic(seed):
    work = generate("mooncake-synthetic", seed=seed)
    inputs, outputs = lengths(work)
    summary = inspect(work, block_size=512)
    assert ks_distance(inputs, spread(SYNTHETIC_INPUT)) < 0.0955
    assert ks_distance(outputs, spread(SYNTHETIC_OUTPUT)) < 0.0365
    assert summary.spearman_in_out == pytest.approx(-0.5166, abs=0.06)
    assert summary.rate_per_s == pytest.approx(3.906, rel=0.05)
    assert summary.interarrival_cv == pytest.approx(1.011, abs=0.05)
    assert summary.endless_hit_ratio == pytest.approx(0.6512, abs=0.02)
    assert summary.with_hit == pytest.approx(0.446, abs=0.03)
    assert summary.unique_blocks == pytest.approx(43_924, rel=0.1)
    measured = {1_000: 0.086, 3_000: 0.194, 10_000: 0.432, 30_000: 0.636}
    found = {size: summary.lru_hit_ratio[size] for size in measured}
    assert found == pytest.approx(measured, abs=0.08)


@pytest.fixture(scope="module")
def agents() -> tuple[Workload, Measured]:
    work = generate("weka-agents")
    return work, measure(work, block_size=512)


@pytest.mark.slow
def test_weka_agents(agents):
    work, measured = agents
    own = [request for request in work if "." not in request.id]
    inputs, _ = lengths(own)
    fitted = preset("weka-agents")
    assert len(measured.session_requests) == 571
    assert ks_distance(inputs, spread(WEKA_INPUT)) < 0.0737
    assert ks_distance(measured.outputs, spread(fitted.lengths.output)) < 0.0339
    assert ks_distance(measured.waits_s, spread(fitted.prefix.wait_s)) < 0.0594
    steps = np.unique([request.session for request in own], return_counts=True)[1]
    expected = np.maximum(1, np.rint(fitted.prefix.steps.at(EVEN)))
    assert ks_distance(steps, expected) < 0.0459
    assert measured.reuse.hit_ratio() == pytest.approx(0.963, abs=0.02)


def test_servegen_reasoning():
    inputs, outputs = lengths(generate("servegen-reasoning"))
    assert np.percentile(inputs, [50, 90]) == pytest.approx([180, 3_473], rel=0.1)
    assert np.percentile(outputs, [50, 90]) == pytest.approx([1_014, 5_423], rel=0.1)


def test_aiperf_agentic():
    work = generate("aiperf-agentic", sessions=300)
    first = [request for request in work if request.turn == 0]
    assert len({request.prompt.array()[:32_000].tobytes() for request in first[:40]}) == 1
    assert max(len(request.prompt) for request in work) <= 200_000
    # a median of 4,000 and of 800, a little lower for what is cut off
    assert np.median(lengths(work)[1]) == pytest.approx(800, rel=0.05)
    assert np.median([len(one.prompt) for one in first]) == pytest.approx(47_000 + 4_000, rel=0.1)


def test_a_fit_to_a_generated_trace_gives_back_what_it_was_generated_from():
    fitted = Conversation.model_validate(fit_conversation(generate(seed=3))["prefix"])
    model = preset("mooncake-conversation").prefix
    assert fitted.repeats == pytest.approx(model.repeats, abs=0.01)
    assert fitted.continues[0] == pytest.approx(model.continues[0], abs=0.06)
    assert fitted.opener_continues.chances[1] == pytest.approx(
        model.opener_continues.chances[1], abs=0.05
    )
    assert fitted.cuts.chances[3] == pytest.approx(model.cuts.chances[3], abs=0.06)


@pytest.mark.skipif(not MOONCAKE.exists(), reason="the Mooncake trace is not here")
def test_the_bundled_parameters_are_those_of_the_trace():
    fitted, bundled = fit_conversation(read_trace(MOONCAKE)), preset("mooncake-conversation")
    assert Lengths.model_validate(fitted["lengths"]) == bundled.lengths
    assert Conversation.model_validate(fitted["prefix"]) == bundled.prefix


@pytest.mark.skipif(not AZURE.exists(), reason="the Azure trace is not here")
def test_azure_conversation_is_like_its_trace():
    apart = distances(measure(read_trace(AZURE)), measure(generate("azure-conversation")))
    assert apart["input"] < 0.04
    assert apart["output"] < 0.04
    assert apart["inter-arrival"] < 0.03


@pytest.mark.slow
@pytest.mark.skipif(not WEKA.exists(), reason="the WEKA sessions are not here")
def test_weka_agents_are_like_their_trace(agents):
    # of 710 sessions, the 571 here lack the longest
    trace = measure(read_trace(WEKA))
    apart = distances(trace, agents[1])
    assert trace.reuse.hit_ratio() == pytest.approx(0.961, abs=0.001)
    assert apart["input"] < 0.0737
    assert apart["output"] < 0.0339
    assert apart["requests of a session"] < 0.1
    assert apart["wait after an answer"] < 0.1
