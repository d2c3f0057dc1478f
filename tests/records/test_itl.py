"""Gaps counted together give the statistics of the gaps written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.records import ItlAccumulator
from traces.records.distribution import describe
from traces.records.itl import rounded

GAPS = st.lists(
    st.tuples(st.one_of(st.integers(0, 40), st.integers(0, 10**13)), st.integers(0, 300)),
    max_size=60,
)


def written_out(weighted):
    return np.repeat([gap for gap, _ in weighted], [weight for _, weight in weighted])


def assert_same(summary, values):
    assert summary["count"] == len(values)
    if len(values) == 0:
        return
    for p in (50, 90, 95, 99):
        assert summary[f"p{p}_ns"] == np.percentile(values, p)
    assert summary["mean_ns"] == pytest.approx(values.mean(), rel=1e-12)
    assert summary["std_ns"] == pytest.approx(values.std(), rel=1e-9, abs=1e-9 * values.mean())
    assert summary["min_ns"] == values.min()
    assert summary["max_ns"] == values.max()


@given(GAPS)
def test_weighted_statistics_are_numpys_over_the_gaps_written_out(weighted):
    itl = ItlAccumulator()
    for gap, weight in weighted:
        itl.add(gap, weight)
    assert_same(itl.summary(), written_out(weighted).astype(np.int64))


@given(GAPS, st.integers(1, 9))
@settings(max_examples=50)
def test_it_does_not_matter_when_gaps_are_folded(weighted, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("traces.records.itl.CHUNK", chunk)
        often = ItlAccumulator()
        for i, (gap, weight) in enumerate(weighted):
            often.add(gap, weight)
            if i % 13 == 0:
                often.summary()  # looking does not change it
    once = ItlAccumulator()
    if weighted:
        once.add_many(*np.array(weighted, np.int64).T)
    assert often.summary() == once.summary()


def test_no_gap_is_no_statistics():
    assert ItlAccumulator().summary() == {"count": 0, "exact": True}


@given(st.lists(st.integers(1, 2**60), min_size=1))
def test_rounding_is_within_a_thousandth_and_done_once(gaps):
    exact = np.array(gaps, np.int64)
    near = rounded(exact)
    assert np.all(np.abs(near - exact) <= 1e-3 * exact)
    assert np.array_equal(rounded(near), near)
    assert np.array_equal(rounded(exact[exact < 2048]), exact[exact < 2048])


def test_too_many_different_gaps_are_rounded_and_said_to_be(monkeypatch):
    monkeypatch.setattr("traces.records.itl.CHUNK", 1000)
    gaps = np.random.default_rng(0).lognormal(16, 1, 20_000).astype(np.int64)
    itl = ItlAccumulator(most_exact=5_000)
    for gap in gaps.tolist():
        itl.add(gap, 2)
    summary = itl.summary()
    assert summary["exact"] is False
    assert summary["count"] == 40_000
    values = np.repeat(gaps, 2)
    for p in (50, 90, 95, 99):
        assert summary[f"p{p}_ns"] == pytest.approx(np.percentile(values, p), rel=1e-3)
    assert summary["mean_ns"] == pytest.approx(values.mean(), rel=1e-3)
    assert (summary["min_ns"], summary["max_ns"]) == (values.min(), values.max())
    assert sum(len(run[0]) for run in itl._runs) < 13_000  # memory stays bounded


def test_equal_gaps_are_never_too_many():
    itl = ItlAccumulator(most_exact=100)
    for _ in range(40):
        itl.add_many(np.arange(100), 1)
    assert itl.summary()["exact"] is True
    assert itl.summary()["count"] == 4_000


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=40))
def test_describe_without_weights_is_numpy(values):
    stats = describe(np.array(values))
    assert stats.p90 == np.percentile(values, 90)
    assert stats.p50 == np.percentile(values, 50)
    assert stats.mean == pytest.approx(np.mean(values), rel=1e-12)
