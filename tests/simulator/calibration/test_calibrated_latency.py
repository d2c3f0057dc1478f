"""The calibrated model: more work never takes less time, many steps are each step, and ranges are kept."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import LatencyModel, StepShape
from simulator.calibration.profile import CalibratedProfile, Curve, StepCost
from simulator.latency.calibrated import CalibratedLatency

cost = st.floats(0, 1e7, allow_subnormal=False)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    gaps = draw(st.lists(st.integers(1, 3000), max_size=6))
    rises = [draw(cost) for _ in gaps]
    return Curve(
        knots=tuple(accumulate(gaps, initial=0)),
        ns=tuple(accumulate(rises, initial=0.0)),
        slope_ns=draw(st.floats(0, 1e5, allow_subnormal=False)),
    )


def span(draw: st.DrawFn, most: int) -> tuple[int, int]:
    low, high = sorted((draw(st.integers(0, most)), draw(st.integers(0, most))))
    return low, high


@st.composite
def profiles(draw: st.DrawFn) -> CalibratedProfile:
    return CalibratedProfile(
        model="m",
        device="d",
        latency=StepCost(
            fixed_ns=draw(cost),
            prefill_fixed_ns=draw(cost),
            tokens=draw(curves()),
            decode_kv_tokens=draw(curves()),
            prefill_pairs=draw(curves()),
            cached_token_ns=draw(cost),
            decode_request_ns=draw(cost),
            prefill_request_ns=draw(cost),
            sampled_ns=draw(cost),
        ),
        ranges={
            "tokens": span(draw, 5000),
            "decode_requests": span(draw, 60),
            "decode_kv_tokens": span(draw, 20_000),
            "prefill_requests": span(draw, 6),
            "cached_tokens": span(draw, 5000),
            "prefill_pairs": span(draw, 10**7),
        },
        modes=tuple(draw(st.sets(st.sampled_from(["decode", "extend", "mixed"]), min_size=1))),
        host={},
        steps=100,
    )


@st.composite
def shapes(draw: st.DrawFn) -> StepShape:
    rows = st.tuples(st.integers(1, 3000), st.integers(0, 3000))
    prefill = draw(st.lists(rows, max_size=4))
    requests = draw(st.integers(0, 60))
    kv_tokens = draw(st.integers(requests, 30_000)) if requests else 0
    sampled = requests + draw(st.integers(0, len(prefill)))
    return StepShape(prefill, requests, kv_tokens, sampled, lambda: np.zeros(0, np.int64))


@given(profiles(), shapes(), st.integers(0, 3000), st.data())
def test_more_work_never_takes_less_time(
    profile: CalibratedProfile, shape: StepShape, more: int, data: Any
) -> None:
    latency = CalibratedLatency(profile)
    prefill, requests, kv_tokens, sampled, lens = shape
    before = latency.step_ns(shape)
    row = data.draw(st.tuples(st.integers(1, 3000), st.integers(0, 3000)))
    larger = [
        StepShape([*prefill, row], requests, kv_tokens, sampled, lens),
        StepShape([*prefill, row], requests, kv_tokens, sampled + 1, lens),
        StepShape(prefill, requests + 1, kv_tokens + 1 + more, sampled + 1, lens),
    ]
    if requests:
        larger.append(StepShape(prefill, requests, kv_tokens + more, sampled, lens))
    if prefill:
        (new, cached), *others = prefill
        larger.append(
            StepShape([(new + more, cached), *others], requests, kv_tokens, sampled, lens)
        )
        larger.append(
            StepShape([(new, cached + more), *others], requests, kv_tokens, sampled, lens)
        )
    for one in larger:
        assert latency.step_ns(one) >= before, one


@given(profiles(), st.integers(1, 80), st.integers(0, 20_000), st.integers(1, 300))
def test_many_steps_take_what_each_takes_and_leave_the_same_flags(
    profile: CalibratedProfile, requests: int, kv_tokens: int, steps: int
) -> None:
    kv_tokens += requests
    at_once, one_by_one = CalibratedLatency(profile), CalibratedLatency(profile)
    lens = np.zeros(0, np.int64)
    found = at_once.decode_steps_ns(requests, kv_tokens, steps, lambda: lens)
    assert found.dtype == np.int64
    assert at_once.flags() == {}, "looking ahead is not going through"
    at_once.took(requests, kv_tokens, steps)
    walked = LatencyModel.decode_steps_ns(one_by_one, requests, kv_tokens, steps, lambda: lens)
    assert found.tolist() == walked.tolist()
    assert at_once.flags() == one_by_one.flags()


def small(**changes: Any) -> CalibratedProfile:
    ranges = {
        "tokens": (2, 500),
        "decode_requests": (2, 8),
        "decode_kv_tokens": (100, 1000),
        "prefill_requests": (1, 2),
        "cached_tokens": (0, 0),
        "prefill_pairs": (10, 5000),
    }
    given: dict[str, Any] = {
        "model": "m",
        "device": "d",
        "latency": StepCost(fixed_ns=5.0),
        "ranges": ranges,
        "modes": ("decode", "extend"),
        "host": {},
        "steps": 100,
    }
    return CalibratedProfile(**{**given, **changes})


def decode(requests: int, kv_tokens: int) -> StepShape:
    return StepShape((), requests, kv_tokens, requests, lambda: np.zeros(0, np.int64))


def test_each_part_by_hand() -> None:
    curve = Curve(knots=(0, 10, 20), ns=(0, 100, 300), slope_ns=50)
    one = CalibratedLatency(
        small(
            latency=StepCost(
                fixed_ns=1e6,
                prefill_fixed_ns=1e5,
                tokens=curve,
                decode_kv_tokens=Curve(slope_ns=3),
                prefill_pairs=Curve(slope_ns=7),
                cached_token_ns=11,
                decode_request_ns=13,
                prefill_request_ns=17,
                sampled_ns=19,
            )
        )
    )
    assert one.step_ns(decode(5, 200)) == 1e6 + 50 + 600 + 5 * 13 + 5 * 19
    assert one.step_ns(decode(15, 200)) == 1e6 + 200 + 600 + 15 * 13 + 15 * 19
    # 4 new tokens after 6 cached ones see 7 + 8 + 9 + 10 tokens
    shape = StepShape([(4, 6)], 20, 200, 21, lambda: np.zeros(0, np.int64))
    tokens = 300 + 4 * 50
    expected = 1e6 + 1e5 + tokens + 600 + 34 * 7 + 6 * 11 + 20 * 13 + 17 + 21 * 19
    assert one.step_ns(shape) == expected
    assert one.step_ns(StepShape((), 0, 0, 0, lambda: np.zeros(0, np.int64))) == 0


def test_what_lies_outside_the_measured_range_is_counted_by_name() -> None:
    latency = CalibratedLatency(small())
    latency.step_ns(decode(4, 500))
    assert latency.flags() == {}
    latency.step_ns(decode(4, 1001))
    latency.step_ns(decode(9, 500))
    latency.step_ns(decode(1, 99))
    latency.step_ns(StepShape([(20, 5)], 0, 0, 1, lambda: np.zeros(0, np.int64)))
    latency.step_ns(StepShape([(20, 0)], 4, 500, 5, lambda: np.zeros(0, np.int64)))
    assert latency.flags() == {
        "cached_tokens outside 0 to 0": 1,
        "decode_kv_tokens outside 100 to 1000": 2,
        "decode_requests outside 2 to 8": 2,
        "mixed steps, of which none was measured": 1,
        "tokens outside 2 to 500": 1,
    }


def test_a_profile_survives_its_file(tmp_path: Any) -> None:
    profile = small()
    profile.save(tmp_path / "p.json")
    assert CalibratedProfile.load(tmp_path / "p.json") == profile
    assert (tmp_path / "p.json").stat().st_size < 5000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"kind": "calibrated"}', "model: Field required"),
        ("[1]", "is no calibrated profile"),
    ],
)
def test_a_file_that_is_none_says_what_is_wrong(tmp_path: Any, text: str, said: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        CalibratedProfile.load(tmp_path / "p.json")


def test_a_curve_that_falls_is_refused() -> None:
    with pytest.raises(ValueError, match="not to fall"):
        Curve(knots=(0, 1, 2), ns=(0, 5, 4))
    with pytest.raises(ValueError, match="begins at 0, 0"):
        Curve(knots=(1, 2), ns=(0, 5))
