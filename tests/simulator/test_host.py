"""Host costs are linear in their drivers, exact, and free under the preset `zero`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from simulator.host import HostModel, HostOptions

count = st.integers(0, 100_000)
PHASES = {
    "receive_ns": 1,
    "schedule_ns": 3,
    "prepare_ns": 3,
    "launch_ns": 0,
    "collect_ns": 1,
    "commit_ns": 2,
}


def costs(host, **drivers):
    return {name: getattr(host, name)(*drivers.get(name, [0] * n)) for name, n in PHASES.items()}


def test_each_phase_by_hand():
    names = [name for name in HostOptions.model_fields if name != "preset"]
    primes = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59]
    host = HostModel(HostOptions(**dict(zip(names, primes, strict=True))))
    assert host.receive_ns(10) == 2 + 3 * 10
    assert host.schedule_ns(waiting=10, running=100, prefill_requests=1000) == (
        5 + 7 * 10 + 11 * 100 + 13 * 1000
    )
    assert host.prepare_ns(prefill_requests=10, prefill_tokens=100, decode_requests=1000) == (
        17 + 19 * 10 + 23 * 100 + 29 * 1000 + 31
    )
    assert host.prepare_ns(0, 0, decode_requests=1000) == 17 + 29 * 1000
    assert host.launch_ns() == 37
    assert host.collect_ns(10) == 41 + 43 * 10
    assert host.commit_ns(rows=10, finished=100) == 47 + 53 * 10 + 59 * 100


@given(st.sampled_from(sorted(PHASES)), st.lists(count, min_size=3, max_size=3), st.data())
def test_more_never_costs_less(phase, drivers, data):
    drivers = drivers[: PHASES[phase]]
    cost = getattr(HostModel(), phase)
    for index in range(len(drivers)):
        more = list(drivers)
        more[index] += data.draw(count)
        assert cost(*more) >= cost(*drivers)


def test_every_cost_is_a_whole_number_of_nanoseconds():
    assert all(type(ns) is int and ns > 0 for ns in costs(HostModel()).values())


def test_zero_is_free_but_for_what_is_given():
    free = HostModel(HostOptions(preset="zero"))
    many = {name: [1000] * n for name, n in PHASES.items()}
    assert set(costs(free, **many).values()) == {0}
    launch_only = HostModel(HostOptions(preset="zero", launch_fixed_ns=5))
    assert costs(launch_only, **many) == {**costs(free), "launch_ns": 5}


@pytest.mark.parametrize("preset", ["production", "zero"])
def test_options_survive_a_round_trip(preset):
    options = HostOptions(preset=preset, commit_per_row_ns=3)
    assert HostOptions.model_validate(options.model_dump()) == options
    assert HostOptions.model_validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize(("rows", "low_ms", "high_ms"), [(64, 1.0, 2.0), (256, 2.0, 4.0)])
def test_a_decode_step_is_in_the_range_reported_for_python_engines(rows, low_ms, high_ms):
    host = HostModel()
    total = (
        host.receive_ns(0)
        + host.schedule_ns(0, rows, 0)
        + host.prepare_ns(0, 0, rows)
        + host.launch_ns()
        + host.collect_ns(rows)
        + host.commit_ns(rows, 0)
    )
    assert low_ms < total / 1e6 < high_ms
    assert 34_000 <= host.schedule_ns(0, rows, 0) <= 157_000


def test_options_are_checked():
    with pytest.raises(ValidationError, match="launch_us"):
        HostOptions.model_validate({"launch_us": 3})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        HostOptions(launch_fixed_ns=-1)
    with pytest.raises(ValidationError, match="'production' or 'zero'"):
        HostOptions.model_validate({"preset": "free"})
