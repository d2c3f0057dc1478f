"""Host and device on one clock: what the two loops overlap, and what that gains, to the nanosecond."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from simulator.host import HostModel, HostOptions
from tests.simulator.checks import Row, check_records, host_work, rows_of
from tests.simulator.harness import FREE_HOST, MS, Linear, crowd, play, policy_of, request_of
from traces.workload import Workload

if TYPE_CHECKING:
    from tests.simulator.harness import Played

ROWS, OUTPUT = 4, 40
HOST = HostOptions()


def decode(device_ns: int, overlap: str, host: HostOptions = HOST) -> Played:
    """Four requests that come at once and decode together, each step as long on the device."""
    work = Workload("steady", [request_of(i, 0, 10, OUTPUT) for i in range(ROWS)])
    return play(work, policy_of(overlap=overlap), 1000, Linear(device_ns), host=host)


def steady(played: Played) -> list[Row]:
    """The decode steps, less the first and the last two, where requests join and leave."""
    return [step for step in rows_of(played.run, "steps") if step["mode"] == "decode"][2:-2]


def host_ns_per_step() -> int:
    """What the host does for a decode step of all four, by the model's own account."""
    host = HostModel(HOST)
    before = host.receive_ns(0) + host.schedule_ns(0, ROWS, 0) + host.prepare_ns(0, 0, ROWS)
    return before + host.launch_ns() + host.collect_ns(ROWS) + host.commit_ns(ROWS, 0)


def test_serial_steps_take_the_host_and_the_device_in_turn() -> None:
    for device_ns in (1000, MS // 2, 10 * MS):
        steps = steady(decode(device_ns, "serial"))
        for before, after in pairwise(steps):
            assert after["start_ns"] - before["start_ns"] == device_ns + host_ns_per_step()
            assert after["start_ns"] - before["end_ns"] == host_ns_per_step()
            assert after["launch_ns"] == after["start_ns"]


def test_overlapped_steps_take_the_longer_of_the_two() -> None:
    host_ns = host_ns_per_step()
    for device_ns in (1000, host_ns - 1, host_ns, host_ns + 1, 10 * MS):
        steps = steady(decode(device_ns, "overlapped"))
        for before, after in pairwise(steps):
            assert after["commit_ns"] - before["commit_ns"] == max(device_ns, host_ns)
        gaps = {after["start_ns"] - before["end_ns"] for before, after in pairwise(steps)}
        assert gaps == {max(0, host_ns - device_ns)}, "a device with work to do never waits"


def test_overlap_gains_what_hides_and_no_more() -> None:
    host_ns = host_ns_per_step()
    for device_ns in (MS // 10, host_ns, 10 * MS):
        serial, overlapped = (decode(device_ns, name) for name in ("serial", "overlapped"))
        ends = [played.run.manifest["end_ns"] for played in (serial, overlapped)]
        hidden = min(device_ns, host_ns) * (OUTPUT - 2)
        assert hidden <= ends[0] - ends[1] <= hidden + 4 * (device_ns + host_ns)
        assert serial.run.manifest["device_busy_ns"] == OUTPUT * device_ns


@pytest.mark.parametrize("overlap", ["serial", "overlapped"])
@pytest.mark.parametrize("batching", ["prefill-first", "mixed", "static"])
def test_under_load_time_adds_up(batching: str, overlap: str) -> None:
    work = crowd(7, 120, 5 * MS, prompt=200, output=30)
    policy = policy_of(batching=batching, overlap=overlap, chunked_prefill_size=256)
    played = play(work, policy, 6000, Linear(3 * MS, 5000, 20_000), host=HOST)
    check_records(played)
    steps = rows_of(played.run, "steps")
    modes = {step["mode"] for step in steps}
    assert modes == {"extend", "decode"} | ({"mixed"} if batching == "mixed" else set())
    overlapping = 0
    for before, after in pairwise(steps):
        (host_start, host_end), _ = host_work(after)
        overlapping += host_start < before["end_ns"] and before["start_ns"] < host_end
        if overlap == "serial":
            assert after["launch_ns"] >= before["commit_ns"]
    assert (overlapping > len(steps) // 2) == (overlap == "overlapped")


def test_a_host_that_is_free_leaves_no_gap_while_there_is_work() -> None:
    work = Workload("w", [request_of(i, 0, 100, 30) for i in range(8)])
    for overlap in ("serial", "overlapped"):
        played = play(work, policy_of(overlap=overlap), 4000, Linear(MS), host=FREE_HOST)
        steps = rows_of(played.run, "steps")
        assert all(b["start_ns"] == a["end_ns"] for a, b in pairwise(steps))
        assert steps[0]["start_ns"] == 0
        assert steps[-1]["commit_ns"] == played.run.manifest["device_busy_ns"] == 30 * MS


def test_an_arrival_wakes_a_server_that_sleeps_and_is_charged_for() -> None:
    host = HostModel(HOST)
    work = Workload("w", [request_of(0, 17, 100), request_of(1, 10**12, 100)])
    played = play(work, policy_of(overlap="serial"), 4000, Linear(MS), host=HOST)
    upto_launch = host.receive_ns(1) + host.schedule_ns(0, 0, 1) + host.prepare_ns(1, 100, 0)
    upto_launch += host.launch_ns()
    after = host.collect_ns(1) + host.commit_ns(1, 1)
    rows = rows_of(played.run, "requests")
    # the first finds the host in its very first round, which costs a poll and a look at the queue
    assert rows[0]["finish_ns"] - 17 >= upto_launch + MS + after
    assert rows[1]["first_scheduled_ns"] == 10**12 + upto_launch
    assert rows[1]["first_token_ns"] == 10**12 + upto_launch + MS + after
    assert rows[1]["finish_ns"] == rows[1]["first_token_ns"]


def test_time_stays_exact_far_from_zero() -> None:
    """Nanoseconds since 1970 do not fit a float; two runs so far apart differ by just that."""
    epoch = 1_700_000_000 * 10**9 + 1
    here, there = (
        Workload("w", [request_of(i, start + 777 * i, 50, 9) for i in range(20)])
        for start in (10**9, epoch)
    )
    near, far = (
        rows_of(play(work, policy_of(), 4000, Linear(MS, 7, 3), host=HOST).run, "steps")
        for work in (here, there)
    )
    shift = epoch - 10**9
    for name in ("launch_ns", "start_ns", "end_ns", "commit_ns"):
        assert [step[name] + shift for step in near] == [step[name] for step in far]


@pytest.mark.parametrize("device_ns", [1000, 10 * MS])
def test_a_round_that_plans_nothing_still_costs_the_host_its_look(device_ns: int) -> None:
    """The overlapped loop goes round once more before it collects the last step."""
    host = HostModel(HOST)
    arrival = 10**9
    work = Workload("w", [request_of(0, 0, 10), request_of(1, arrival, 100)])
    played = play(work, policy_of(overlap="overlapped"), 4000, Linear(device_ns), host=HOST)
    launch = arrival + host.receive_ns(1) + host.schedule_ns(0, 0, 1)
    launch += host.prepare_ns(1, 100, 0) + host.launch_ns()
    looked = launch + host.receive_ns(0) + host.schedule_ns(0, 0, 0)
    row = rows_of(played.run, "requests")[1]
    collected = max(looked, launch + device_ns)
    assert row["finish_ns"] == collected + host.collect_ns(1) + host.commit_ns(1, 1)
