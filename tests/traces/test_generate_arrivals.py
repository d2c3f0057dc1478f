"""Arrival processes: gaps of the right shape, at the right rate."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from traces.generate.arrivals import BLOCK, Arrivals, Minutes

ARRIVALS = TypeAdapter(Arrivals)
PHASES = [{"weight": 0.3, "mean_s": 0.01}, {"weight": 0.7, "mean_s": 1.0}]
BURSTS = {
    "kind": "on-off",
    "burst": {"kind": "poisson", "rate": 20},
    "arrivals_per_burst": 10,
    "silence_s": {"kind": "exponential", "mean": 5},
}
KINDS = [
    {"kind": "deterministic"},
    {"kind": "poisson"},
    {"kind": "gamma", "shape": 0.4},
    {"kind": "weibull", "shape": 0.6},
    {"kind": "hyperexponential", "phases": PHASES},
    BURSTS,
]


def gaps_s(options, blocks=12, seed=0, rate=None) -> np.ndarray:
    process = ARRIVALS.validate_python(options)
    times = np.concatenate([*islice(process.times_ns(np.random.default_rng(seed), rate), blocks)])
    return np.diff(times, prepend=0) / 1e9


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "poisson", "rate": 4}, stats.expon(scale=0.25)),
        ({"kind": "gamma", "rate": 2, "shape": 0.5}, stats.gamma(0.5, scale=1.0)),
        ({"kind": "weibull", "rate": 1, "shape": 1.0}, stats.expon()),
        ({"kind": "weibull", "rate": 0.5, "shape": 2.0}, stats.weibull_min(2, scale=2.25676)),
    ],
)
def test_gaps_have_the_distribution_they_are_named_for(options, expected):
    gaps = gaps_s(options)
    assert stats.kstest(gaps, expected.cdf).statistic < 1.63 / np.sqrt(len(gaps))  # 1 %


def test_hyperexponential_gaps_are_a_mixture_of_exponentials():
    gaps = gaps_s({"kind": "hyperexponential", "phases": PHASES})

    def cdf(x):
        return 1 - 0.3 * np.exp(-x / 0.01) - 0.7 * np.exp(-x)

    assert stats.kstest(gaps, cdf).statistic < 1.63 / np.sqrt(len(gaps))


def test_on_off_has_bursts_and_silences():
    gaps = gaps_s(BURSTS, blocks=30)
    silences = gaps[gaps > 1.0]  # no gap within a burst is that long: exp(-20) of them
    assert len(silences) / len(gaps) == pytest.approx(0.1 * np.exp(-1 / 5), rel=0.05)
    assert (silences - 1.0).mean() == pytest.approx(5, rel=0.05)
    assert gaps.std() / gaps.mean() > 3


@pytest.mark.parametrize("options", KINDS)
def test_a_rate_is_kept_whatever_the_shape(options):
    for rate in (0.25, 30.0):
        given_rate = gaps_s({**options, "rate": rate}, blocks=40)
        assert 1 / given_rate.mean() == pytest.approx(rate, rel=0.05)
        minutes = {"counts": [60, 120], "span_s": 120}
        assert 1 / gaps_s({**options, "minutes": minutes}, rate=rate).mean() == pytest.approx(
            rate, rel=0.1
        )


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), st.floats(0.01, 1e4), st.integers(0, 2**32))
def test_times_never_go_back_and_do_not_hang_on_how_many_are_taken(options, rate, seed):
    process = ARRIVALS.validate_python({**options, "rate": rate})
    blocks = [*islice(process.times_ns(np.random.default_rng(seed)), 3)]
    assert all(block.dtype == np.int64 and block.shape == (BLOCK,) for block in blocks)
    times = np.concatenate(blocks)
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()
    again = next(process.times_ns(np.random.default_rng(seed)))
    assert (again == blocks[0]).all()


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any), st.floats(0.01, 60), st.data()
)
def test_minutes_hold_their_requests_over_and_over(counts, last_s, data):
    span_s = 60 * (len(counts) - 1) + round(last_s, 2)
    minutes = Minutes(counts=tuple(counts), span_s=span_s)
    total = sum(counts)
    # the middles of one request's share of the work each, in three laps
    work = np.arange(3 * total, dtype=np.int64) * 1_000_000 + 500_000
    times_us = minutes.at(work)
    assert (np.diff(times_us) >= 0).all()
    lap = data.draw(st.integers(0, 2))
    within = times_us[lap * total : (lap + 1) * total] - lap * round(span_s * 1e6)
    assert np.bincount(within // 60_000_000, minlength=len(counts)).tolist() == counts


def test_minutes_drive_the_rate():
    minutes = {"counts": [600, 0, 60], "span_s": 150}
    times = np.cumsum(gaps_s({"kind": "poisson", "minutes": minutes}, blocks=16))
    within = times % 150
    assert ARRIVALS.validate_python({"kind": "poisson", "minutes": minutes}).rate_per_s == 4.4
    assert not ((within >= 60) & (within < 120)).any()
    assert (within < 60).mean() == pytest.approx(600 / 660, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "poisson", "rate": 0}, "greater than 0"),
        ({"kind": "poisson", "rate": 1, "minutes": {"counts": [1], "span_s": 60}}, "not both"),
        ({"kind": "gamma", "rate": 1}, "Field required"),
        ({"kind": "gamma", "shape": 1.0}, "give rate"),
        ({"kind": "poisson", "minutes": {"counts": [0], "span_s": 60}}, "no minute has a request"),
        ({"kind": "poisson", "minutes": {"counts": [1], "span_s": 70}}, "do not make a span"),
        ({"kind": "hyperexponential", "phases": []}, "at least one phase"),
        ({**BURSTS, "arrivals_per_burst": 0.5}, "greater than or equal to 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        ARRIVALS.validate_python(options)
