"""Curves and surfaces: near what was measured, monotone everywhere, the same one by one or at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.operators.curve import Curve
from simulator.operators.kriging import krige
from simulator.operators.monotone import monotone
from simulator.operators.surface import Surface
from simulator.operators.work import BatchWork, Work, fit_sum

WORK = Work(floor=2000.0, compute=3.0, fixed=1000.0, traffic=1.0, tile=64)
SIZES = [1, 2, 8, 64, 65, 128, 500, 4096]


def noisy(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([WORK.at(n) for n in SIZES]) * rng.uniform(0.7, 1.4, len(SIZES))


@given(seed=st.integers(0, 999), sizes=st.lists(st.integers(0, 200_000), min_size=2, max_size=20))
def test_more_rows_never_take_less_time(seed: int, sizes: list[int]) -> None:
    curve = Curve.measured(WORK, SIZES, noisy(seed))
    times = [curve.at(size) for size in sorted(sizes)]
    assert all(a <= b for a, b in pairwise(times))


def test_thinning_changes_no_knot_by_more_than_it_says() -> None:
    sizes = list(range(1, 2000, 7))
    ns = np.array([WORK.at(n) * (1 + 0.2 * (n > 700)) for n in sizes])
    whole, thin = (Curve.measured(WORK, sizes, ns, thin=t) for t in (False, True))
    assert len(thin.sizes) < len(whole.sizes) / 3
    assert max(abs(thin.at(n) / whole.at(n) - 1) for n in sizes) < 0.011


def test_between_knots_a_curve_steps_where_tiles_do() -> None:
    curve = Curve(work=WORK, sizes=(1, 4096), ns=(WORK.at(1), WORK.at(4096)))
    assert curve.at(65) - curve.at(64) > 10 * (curve.at(64) - curve.at(63))


def test_beyond_the_range_is_said_and_grows_with_work() -> None:
    curve = Curve(work=WORK, sizes=(8, 4096), ns=(WORK.at(8), WORK.at(4096)))
    assert [curve.beyond(n) for n in (0, 7, 8, 4096, 4097)] == [False, True, False, False, True]
    assert curve.at(1 << 20) == pytest.approx(WORK.at(1 << 20), rel=0.01)


@pytest.mark.parametrize("ns", [(2.0, 1.0), (0.0, 1.0), (1.0,)])
def test_a_curve_that_is_none_is_refused(ns: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"never fall|expected as many"):
        Curve(work=WORK, sizes=(1, 2), ns=ns)


def surface(seed: int = 0) -> Surface:
    work = BatchWork(floor=8000.0, row=30.0, token=2.0, pair=0.001)
    rng = np.random.default_rng(seed)
    rows, lengths = (1, 2, 4, 16, 64), (1, 16, 64, 512, 2048)
    ns = np.array([[work.at(b, n) for n in lengths] for b in rows])
    ns = monotone(ns * rng.uniform(0.8, 1.25, ns.shape))
    return Surface(
        work=work,
        rows=rows,
        lengths=lengths,
        ns=tuple(tuple(line) for line in ns.tolist()),
        most_tokens=64 * 2048,
    )


@given(
    seed=st.integers(0, 50),
    rows=st.integers(1, 200),
    lengths=st.lists(st.integers(1, 10_000), min_size=2, max_size=30),
)
def test_a_cut_is_monotone_and_answers_many_as_it_answers_one(
    seed: int, rows: int, lengths: list[int]
) -> None:
    cut = surface(seed).cut(rows)
    ordered = np.array(sorted(lengths), float)
    at_once = cut.over(ordered)
    assert at_once.tolist() == [cut.at(float(n)) for n in ordered]
    assert (np.diff(at_once) >= 0).all()


def test_a_cut_at_measured_rows_is_what_was_measured() -> None:
    s = surface()
    for rows, times in zip(s.rows, s.ns, strict=True):
        assert s.cut(rows).over(np.array(s.lengths, float)) == pytest.approx(times)


def test_a_thinned_surface_differs_by_no_more_than_it_says() -> None:
    work = BatchWork(floor=8000.0, row=30.0, token=2.0, pair=0.001)
    rows, lengths = tuple(range(1, 12)), tuple(range(1, 2000, 90))
    ns = tuple(tuple(work.at(b, n) * (1 + 0.1 * (n > 900)) for n in lengths) for b in rows)
    whole = Surface(work=work, rows=rows, lengths=lengths, ns=ns, most_tokens=22_000)
    thin = whole.thinned(0.01)
    assert len(thin.rows) * len(thin.lengths) < len(rows) * len(lengths) / 8
    every = np.array(lengths, float)
    for b, times in zip(rows, ns, strict=True):
        assert thin.cut(b).over(every) == pytest.approx(times, rel=0.0101)


def test_monotone_keeps_a_monotone_table_and_never_falls() -> None:
    rng = np.random.default_rng(1)
    table = rng.uniform(1, 100, (5, 6, 3))
    smooth = monotone(table)
    assert all((np.diff(smooth, axis=axis) >= 0).all() for axis in range(3))
    assert monotone(smooth) == pytest.approx(smooth)


def test_the_fit_finds_what_a_table_was_made_of() -> None:
    x = np.geomspace(1, 1e6, 60)
    terms = np.stack([np.ones_like(x), x])
    assert fit_sum(terms, 5000 + 0.25 * x) == pytest.approx([5000, 0.25], rel=1e-3)


def test_kriging_follows_its_neighbours_and_falls_back_far_away() -> None:
    at = np.array([[0.0], [1.0], [2.0]])
    values = np.array([0.3, 0.1, -0.1])
    wanted = np.array([[1.0], [100.0]])
    near, far = krige(at, values, wanted, scales=np.array([2.0]), noise=1e-6)
    assert near == pytest.approx(0.1, abs=1e-3)
    assert far == pytest.approx(np.median(values), abs=1e-6)
