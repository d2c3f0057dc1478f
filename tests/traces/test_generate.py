"""Generating: the same arguments, the same requests; fewer are the first of more."""

from __future__ import annotations

from hashlib import sha256
from itertools import islice, pairwise

import pytest
from pydantic import ValidationError

from traces import read_trace, write_native
from traces.generate import WorkloadSpec, generate, generate_stream, preset, presets
from traces.sessions import waits_for
from traces.tokens import JoinedTokens

STEADY = {"kind": "poisson", "rate": 2.0}
LENGTHS = {"input": {"kind": "uniform", "low": 10, "high": 50}, "output": 8}


def spec(**changes) -> WorkloadSpec:
    return WorkloadSpec.model_validate({"arrivals": STEADY, "lengths": LENGTHS, **changes})


@pytest.mark.parametrize("name", presets())
def test_fewer_requests_are_the_first_of_more(name):
    more = generate(name, n=300, seed=7)
    assert generate(name, n=120, seed=7).requests == more.requests[:120]
    end_s = more.requests[99].arrival_ns / 1e9
    before = [request for request in more if request.arrival_ns < round(end_s * 1e9)]
    timed = generate(name, duration_s=end_s, seed=7)
    assert list(timed.requests) == before
    assert generate(name, duration_s=end_s, n=20, seed=7).requests == more.requests[:20]


@pytest.mark.parametrize("name", presets())
def test_a_seed_is_a_workload(name):
    assert generate(name, n=50, seed=1).requests == generate(name, n=50, seed=1).requests
    if name != "two-tenants":  # whose lengths and times are fixed
        assert generate(name, n=50, seed=1).requests != generate(name, n=50, seed=2).requests


def test_the_same_bytes_everywhere(tmp_path):
    digests = {}
    for name in presets():
        write_native(generate(name, n=200, seed=1), tmp_path / name)
        rows = (tmp_path / name).read_bytes().split(b"\n", 1)[1]  # the header may be reworded
        digests[name] = sha256(rows).hexdigest()[:16]
    assert digests == {
        "aiperf-agentic": "21d952ff641a9e35",
        "arxiv-summarization": "108782755d52549b",
        "azure-code": "54d4b5c1e9654c44",
        "azure-conversation": "ace387783f4dd7d7",
        "generated-shared-prefix": "20b581e2b5045574",
        "lmsys": "0c92aa93bab6348b",
        "mooncake-conversation": "769687d3d962897b",
        "mooncake-synthetic": "4f05c875ed85aa83",
        "servegen-reasoning": "d387397ab71a6bce",
        "sharegpt": "13e224867c071d15",
        "two-tenants": "54efdf9477295383",
        "weka-agents": "a2e2ff9d9c698328",
    }


@pytest.mark.parametrize("name", presets())
def test_what_is_written_reads_back(name, tmp_path):
    work = generate(name, n=60, seed=3)
    write_native(generate_stream(name, n=60, seed=3), tmp_path / "w.jsonl")
    again = read_trace(tmp_path / "w.jsonl")
    assert (again.name, again.requests) == (work.name, work.requests)
    assert again.meta["origin"] == dict(work.meta)


def test_a_stream_is_made_as_it_is_asked_for():
    stream = generate_stream("mooncake-conversation", n=10**9)
    assert [request.id for request in islice(stream, 3)] == ["r000000", "r000001", "r000002"]
    assert next(stream).id == "r000003"


@pytest.mark.parametrize("name", presets())
def test_a_request_stands_after_all_it_waits_for(name):
    work = generate(name, n=500)  # a workload checks that what is waited for stands before
    arrivals = {request.id: request.arrival_ns for request in work}
    for request in work:
        for other in waits_for(request):
            assert request.arrival_ns >= arrivals[other] + request.delay_ns


def test_rate_is_what_was_asked_for_and_steady():
    for rate in (0.5, 40.0):
        workload = generate("azure-conversation", n=10_000, rate=rate)
        half_s = [workload.requests[row].arrival_ns / 1e9 for row in (4_999, 9_999)]
        assert 5_000 / half_s[0] == pytest.approx(rate, rel=0.05)
        assert 10_000 / half_s[1] == pytest.approx(rate, rel=0.04)
    assert len(generate(duration_s=1_000, rate=2.0)) == pytest.approx(2_000, rel=0.08)


def test_sessions_come_whole():
    work = generate("aiperf-agentic", sessions=20, seed=1)
    assert len({request.session for request in work}) == 20
    assert work.meta["sessions"] == 20
    assert work.meta["concurrency"] == 50


def test_tenants_send_side_by_side():
    tenants = {
        "a": {"arrivals": STEADY, "lengths": LENGTHS},
        "b": {
            "arrivals": {"kind": "deterministic", "rate": 6},
            "lengths": LENGTHS,
            "prefix": {"kind": "groups", "groups": 2},
        },
    }
    work = generate(WorkloadSpec.model_validate({"tenants": tenants}), n=4_000)
    sent = {name: [r for r in work if r.tenant == name] for name in tenants}
    assert len(sent["b"]) / len(sent["a"]) == pytest.approx(3, rel=0.06)
    assert all(request.id.startswith(f"{request.tenant}-") for request in work)
    # at another rate each keeps its share
    fast = generate(WorkloadSpec.model_validate({"tenants": tenants}), n=4_000, rate=80)
    assert fast.duration_ns == pytest.approx(work.duration_ns / 10, rel=0.1)
    # what a tenant sends does not hang on who else does
    alone = generate(WorkloadSpec.model_validate({"tenants": {"a": tenants["a"]}}), n=500)
    assert list(alone) == sent["a"][:500]


def test_tenants_share_no_text():
    both = {
        name: {"arrivals": STEADY, "lengths": LENGTHS, "prefix": {"kind": "groups", "groups": 1}}
        for name in "ab"
    }
    work = generate(WorkloadSpec.model_validate({"tenants": both}), n=100)
    begins = {r.tenant: {q.prompt.parts[0] for q in work if q.tenant == r.tenant} for r in work}
    assert all(len(one) == 1 for one in begins.values())
    assert not begins["a"] & begins["b"]


def test_groups_share_their_beginning():
    groups = {"kind": "groups", "groups": 4, "prompts_per_group": 5, "system_tokens": 32}
    work = generate(spec(prefix=groups), n=40)
    assert all(isinstance(request.prompt, JoinedTokens) for request in work)
    for lap in (work.requests[:20], work.requests[20:]):
        begins = [request.prompt.array()[:32].tobytes() for request in lap]
        assert sorted(begins.count(one) for one in set(begins)) == [5, 5, 5, 5]
    assert len({request.prompt.array()[32:].tobytes() for request in work}) == 40
    ordered = generate(spec(prefix={**groups, "ordered": True}), n=20)
    keys = [request.routing_key for request in ordered]
    assert keys == sorted(keys)


def test_popular_groups_follow_zipf():
    work = generate(spec(prefix={"kind": "groups", "groups": 10, "zipf_alpha": 1.0}), n=8_000)
    keys = [request.routing_key for request in work]
    counts = [keys.count(f"g{group:04d}") for group in range(10)]
    total = sum(1 / k for k in range(1, 11))
    assert counts == pytest.approx([8_000 / k / total for k in range(1, 11)], rel=0.15)


def test_lengths_of_a_trace_can_be_drawn_again(tmp_path):
    write_native(generate("lmsys", n=300), tmp_path / "t.jsonl")
    again = {"kind": "empirical", "trace": str(tmp_path / "t.jsonl"), "of": "input"}
    drawn = generate(spec(lengths={"input": again, "output": 1}), n=2_000)
    known = {len(request.prompt) for request in read_trace(tmp_path / "t.jsonl")}
    assert {len(request.prompt) for request in drawn} <= known


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workload": "gpt"}, "known: aiperf-agentic, arxiv-summarization, azure-code"),
        ({"n": 0}, "n must be at least 1"),
        ({"sessions": 3}, "mooncake-conversation has no sessions to count"),
        ({"workload": "weka-agents", "sessions": 0}, "sessions must be at least 1"),
        ({"duration_s": 0}, "duration_s must be a positive number"),
        ({"rate": float("nan")}, "rate must be a positive number"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"duration_s": 1e-6}, "no request arrives"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrival": STEADY}, "unknown key 'arrival'; known here are name, description"),
        ({"arrivals": {"kind": "poisson"}}, "give rate"),
        ({"arrivals": None}, "arrivals is missing"),
        ({"lengths": {"input": 3}}, "lengths.output\n  Field required"),
        ({"lengths": {"input": -3, "output": 1}}, "greater than or equal to 0"),
        ({"prefix": {"kind": "trees"}}, "'none', 'groups', 'chat', 'agents', 'conversation'"),
        ({"n": 3, "sessions": 3}, "give n, or sessions, not both"),
        ({"sessions": 3}, "sessions are of prefix kinds chat and agents"),
        ({"tenants": {"a": {"arrivals": STEADY, "lengths": LENGTHS}}}, "each tenant's own"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        spec(**changes)


def test_presets_name_their_source_and_licence():
    for name, one in presets().items():
        assert one.name == name
        assert one.source.startswith("https://")
        assert one.licence
        assert one.description
        assert one.n or one.sessions
    assert preset("azure-code").n == 8_819


def test_requests_come_in_arrival_order():
    for name in presets():
        work = list(generate_stream(name, n=400))
        assert all(one.arrival_ns <= other.arrival_ns for one, other in pairwise(work))
