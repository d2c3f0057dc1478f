"""Distributions: each draws what it is named for, from one uniform number a value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from traces.generate.distributions import (
    Distribution,
    Fixed,
    Lognormal,
    Popularity,
    mean,
    nanoseconds,
    tied,
    tokens,
)
from traces.generate.knots import PERCENTILES, Knots
from traces.generate.lengths import Lengths

DISTRIBUTION = TypeAdapter(Distribution)
EVEN = (np.arange(20_000) + 0.5) / 20_000

fixed = st.builds(lambda value: {"kind": "fixed", "value": value}, st.integers(0, 10**6))
uniform = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).map(
    lambda ends: {"kind": "uniform", "low": min(ends), "high": max(ends)}
)
lognormal = st.builds(
    lambda parts, low, width: {
        "kind": "lognormal",
        "mixture": [{"weight": w, "mu": mu, "sigma": s} for w, mu, s in parts],
        "low": low,
        "high": low + width,
    },
    st.lists(
        st.tuples(st.floats(0.05, 1), st.floats(1, 12), st.floats(0.3, 3)), min_size=1, max_size=3
    ),
    st.floats(0, 10),
    st.floats(1e3, 1e6),
)
weibull = st.builds(
    lambda shape, scale: {"kind": "weibull", "shape": shape, "scale": scale},
    st.floats(0.3, 5),
    st.floats(0.01, 1e4),
)
exponential = st.builds(lambda m: {"kind": "exponential", "mean": m}, st.floats(0.01, 1e4))
knots = st.lists(st.floats(0, 1e6), min_size=len(PERCENTILES), max_size=len(PERCENTILES)).map(
    lambda values: {"kind": "knots", "values": sorted(values)}
)
any_distribution = fixed | uniform | lognormal | weibull | exponential | knots


@settings(deadline=None, max_examples=150)
@given(any_distribution, st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=20))
def test_values_rise_with_the_uniform_and_keep_their_bounds(options, drawn):
    distribution = DISTRIBUTION.validate_python(options)
    values = distribution.at(np.sort(np.array(drawn)))
    assert np.isfinite(values).all()
    assert (np.diff(values) >= -1e-9 * np.abs(values[1:])).all()
    low = options.get("low", options.get("values", [options.get("value", 0)])[0])
    high = options.get("high", options.get("values", [options.get("value", np.inf)])[-1])
    assert (values >= low * (1 - 1e-9) - 1e-9).all()
    assert (values <= high * (1 + 1e-9) + 1e-9).all()
    lengths = tokens(distribution, np.array(drawn), least=1)
    assert lengths.dtype == np.int64
    assert (lengths >= 1).all()
    assert (nanoseconds(distribution, np.array(drawn)) % 1_000 == 0).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "lognormal", "mu": 6.5, "sigma": 1.2}, stats.lognorm(1.2, scale=np.exp(6.5))),
        ({"kind": "exponential", "mean": 30}, stats.expon(scale=30)),
        ({"kind": "weibull", "shape": 0.986, "scale": 69}, stats.weibull_min(0.986, scale=69)),
    ],
)
def test_quantiles_are_those_of_the_distribution(options, expected):
    places = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    found = DISTRIBUTION.validate_python(options).at(places)
    assert found == pytest.approx(expected.ppf(places), rel=1e-4)


def test_a_mixture_of_lognormals():
    # prompts of ShareGPT as fitted to a public table of their lengths
    parts = ((0.7213, 3.1567, 0.9857), (0.2787, 6.216, 1.2026))
    mixture = [{"weight": w, "mu": mu, "sigma": s} for w, mu, s in parts]
    drawn = DISTRIBUTION.validate_python({"kind": "lognormal", "mixture": mixture}).at(EVEN)

    def cdf(x):
        return sum(w * stats.norm.cdf((np.log(x) - mu) / s) for w, mu, s in parts)

    assert stats.kstest(drawn, cdf).statistic < 1e-4


def test_a_cut_mixture_keeps_its_shape_within():
    cut = Lognormal.of(5.0, 1.0, low=100.0, high=400.0).at(EVEN)
    whole = stats.lognorm(1.0, scale=np.exp(5.0))
    expected = (whole.cdf(200) - whole.cdf(100)) / (whole.cdf(400) - whole.cdf(100))
    assert (cut < 200).mean() == pytest.approx(expected, abs=1e-3)
    assert cut.min() >= 100
    assert cut.max() <= 400


def test_uniform_lengths_are_as_likely_each():
    drawn = tokens(DISTRIBUTION.validate_python({"kind": "uniform", "low": 3, "high": 6}), EVEN)
    assert np.bincount(drawn).tolist() == [0, 0, 0, 5_000, 5_000, 5_000, 5_000]


def test_knots_are_met():
    sample = np.random.default_rng(0).lognormal(6, 1.5, 5_000)
    found = Knots.of(sample)
    assert found.at(np.array(PERCENTILES) / 100) == pytest.approx(
        np.percentile(sample, PERCENTILES), abs=1e-3
    )
    assert stats.ks_2samp(found.at(EVEN), sample).statistic < 0.02


def test_lengths_are_tied_by_the_rank_correlation_asked_for():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 30_000))
    for spearman in (-0.52, 0.22, 0.0):
        other = tied(first, second, spearman)
        assert stats.spearmanr(first, other).statistic == pytest.approx(spearman, abs=0.02)
        assert stats.kstest(other, "uniform").statistic < 0.01
    lengths = Lengths(
        input=Knots.of(rng.lognormal(6, 1, 5_000)), output=Lognormal.of(5, 1), spearman=0.3
    )
    inputs, outputs = lengths.draw(first, second)
    assert stats.spearmanr(inputs, outputs).statistic == pytest.approx(0.3, abs=0.02)


def test_zipf_popularity():
    chosen = Popularity(count=4, zipf_alpha=2.0).at(EVEN)
    weights = np.array([1, 1 / 4, 1 / 9, 1 / 16])
    assert np.bincount(chosen) / len(EVEN) == pytest.approx(weights / weights.sum(), abs=1e-3)


def test_a_number_is_a_fixed_length():
    assert DISTRIBUTION.validate_python(256) == Fixed(value=256)
    assert mean(Fixed(value=256)) == 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "uniform", "low": 5, "high": 4}, "low is 5, above high, 4"),
        ({"kind": "lognormal", "mu": 1, "sigma": 1, "low": 5, "high": 5}, "not below high"),
        ({"kind": "lognormal", "mu": 1, "sigma": 0.1, "low": 1e6, "high": 2e6}, "no probability"),
        ({"kind": "lognormal", "mu": 1, "mixture": []}, "not both"),
        ({"kind": "lognormal", "mixture": []}, "at least one component"),
        ({"kind": "knots", "values": [1, 2]}, "expected 26 knots"),
        ({"kind": "knots", "values": [2, 1], "percentiles": [0, 100]}, "ascending knots"),
        ({"kind": "knots", "values": [1, 2], "percentiles": [0, 99]}, "from 0 to 100"),
        ({"kind": "fixed", "value": -1}, "greater than or equal to 0"),
        ({"kind": "normal"}, "'fixed', 'uniform', 'exponential'"),
        (True, "valid dictionary"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        DISTRIBUTION.validate_python(options)
