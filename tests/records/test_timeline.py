"""A timeline is valid, as strictly as Perfetto's importer takes it, and says what the records say."""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from simulator import simulate
from traces.records import RunWriter, load_run
from traces.timeline import rows as row_reader
from traces.timeline import write_timeline
from twin.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from traces.records import Run

Events = list[dict[str, Any]]
EVERYTHING = ("requests", "steps", "tokens", "decisions")
CROWDED = (
    "kv.capacity_tokens=12000",
    "workload.ignore_eos=false",
    "workload.max_new_tokens=600",
    "policy.chunked_prefill_size=1024",
    "policy.prefill_max_requests=2",
    "policy.new_token_ratio={conservativeness: 0.05, decay_steps: 3}",
)


# -- the checker: what Perfetto's json_trace_parser.cc would log, drop or move is an error ----------


def check(text: str) -> Events:
    """The events of a trace file, each with whole nanoseconds; AssertionError if it is not sound."""
    document = json.loads(
        text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_no_duplicates
    )
    assert set(document) <= {"traceEvents", "displayTimeUnit", "metadata"}
    assert document["displayTimeUnit"] in {"ms", "ns"}
    events = document["traceEvents"]
    phases = [event["ph"] for event in events]
    names = phases.count("M")
    assert set(phases) <= {"M", "X", "i", "C"}
    assert phases[:names] == ["M"] * names, "names come first"
    for event in events:
        _check_shape(event)
    times = [event["ts"] for event in events[names:]]
    assert times == sorted(times), "events come in the order of time"
    _check_places(events)
    slices = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            slices[event["pid"], event["tid"]].append(event)
    for track in slices.values():
        _check_nesting(track)
    _check_counters([event for event in events if event["ph"] == "C"])
    _check_arrows(events)
    return events


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"a key twice in {keys}"
    return dict(pairs)


def _check_shape(event: dict[str, Any]) -> None:
    allowed = {"ph", "pid", "tid", "ts", "name", "args"}
    allowed |= {"X": {"dur", "bind_id", "flow_in", "flow_out"}, "i": {"s"}}.get(event["ph"], set())
    needed = {"ph", "pid", "tid", "ts", "name"} | {"X": {"dur"}, "i": {"s"}}.get(event["ph"], set())
    assert needed <= set(event) <= allowed, event
    assert isinstance(event["name"], str)
    assert event["name"]
    assert all(isinstance(event[key], int) and event[key] > 0 for key in ("pid", "tid"))
    assert isinstance(event.get("args", {}), dict)
    for key in {"ts", "dur"} & set(event):
        nanoseconds = event[key] * 1000
        assert nanoseconds == int(nanoseconds) >= 0, event
        assert nanoseconds < 2**53, "Perfetto reads times as doubles"
        event[key] = int(nanoseconds)
    if event["ph"] == "i":
        assert event["s"] in {"t", "p", "g"}


def _check_places(events: Iterable[dict[str, Any]]) -> None:
    """Each process and thread is named, once, and no thread is in two processes."""
    names: dict[Any, str] = {}
    for event in events:
        if event["ph"] == "M":
            kind = event["name"]
            known = {"process_name", "process_sort_index", "thread_name", "thread_sort_index"}
            assert kind in known
            key = (kind, event["pid"], event["tid"])
            assert key not in names, f"named twice: {event}"
            names[key] = event["args"]["sort_index" if kind.endswith("index") else "name"]
    processes = {pid for kind, pid, _ in names if kind == "process_name"}
    process_of: dict[int, int] = {}
    for event in events:
        pid, tid = event["pid"], event["tid"]
        assert process_of.setdefault(tid, pid) == pid, f"thread {tid} is in two processes"
        assert pid in processes, f"process {pid} has no name"
        if event["ph"] in {"X", "i"}:
            assert names.get(("thread_name", pid, tid)), f"thread {tid} has no name"


def _check_nesting(track: Events) -> None:
    """SliceTracker::MaybeCloseStack: a slice lies within those that are open, or after them."""
    stack: list[tuple[int, int]] = []
    for event in track:
        start, end = event["ts"], event["ts"] + event["dur"]
        while stack and stack[-1][1] <= start:
            stack.pop()
        assert not stack or end <= stack[-1][1], f"{event} overlaps {stack[-1]}"
        stack.append((start, end))


def _check_counters(events: Events) -> None:
    series: dict[str, set[str]] = {}
    for event in events:
        args = event["args"]
        assert args
        assert all(isinstance(value, int) and value >= 0 for value in args.values()), event
        assert series.setdefault(event["name"], set(args)) == set(args)


def _check_arrows(events: Iterable[dict[str, Any]]) -> None:
    """FlowTracker: an arrow begins once, and goes on only from where it has begun."""
    begun: set[int] = set()
    for event in events:
        assert ("bind_id" in event) == bool({"flow_in", "flow_out"} & set(event))
        if event.get("flow_out") and not event.get("flow_in"):
            assert event["bind_id"] not in begun, "an arrow begins twice"
            begun.add(event["bind_id"])
        elif event.get("flow_in"):
            assert event["bind_id"] in begun, f"the arrow never began: {event}"


SOUND = """{"displayTimeUnit":"ms","traceEvents":[
{"ph":"M","pid":1,"tid":1,"ts":0,"name":"process_name","args":{"name":"p"}},
{"ph":"M","pid":1,"tid":1,"ts":0,"name":"thread_name","args":{"name":"t"}},
{"ph":"X","pid":1,"tid":1,"ts":1.000,"dur":5.000,"name":"a","bind_id":1,"flow_out":true},
{"ph":"X","pid":1,"tid":1,"ts":2.000,"dur":4.000,"name":"b","bind_id":1,"flow_in":true},
{"ph":"C","pid":1,"tid":1,"ts":3.000,"name":"c","args":{"n":1}}
]}"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"dur":4.000', '"dur":4.001'),  # overlaps its parent
        ('"dur":4.000', '"dur":-1.000'),
        ('"dur":4.000', '"dur":NaN'),
        ('"ts":2.000', '"ts":0.500'),  # out of order
        ('"ts":2.000', '"ts":2.0005'),  # half a nanosecond
        ('"ts":2.000,', ""),
        ('"name":"b"', '"name":""'),
        ('"name":"b"', '"name":"b","name":"b"'),
        ('"tid":1,"ts":2', '"tid":2,"ts":2'),  # a thread without a name
        ('"pid":1,"tid":1,"ts":3', '"pid":2,"tid":3,"ts":3'),  # a process without one
        ('"bind_id":1,"flow_in"', '"bind_id":2,"flow_in"'),
        ('"ph":"C"', '"ph":"B"'),  # never ended
        ('{"n":1}', '{"n":-1}'),
        ("]}", ",]}"),
    ],
)
def test_the_checker_finds_what_is_wrong(old: str, new: str) -> None:
    check(SOUND)
    assert old in SOUND
    with pytest.raises((AssertionError, ValueError)):
        check(SOUND.replace(old, new))


# -- real runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["serial", "overlapped"])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Sixty requests in a pool too small for them, all recorded: chunks and retractions."""
    return simulate(
        "azure-conversation",
        settings=[*CROWDED, f"policy.overlap={request.param}"],
        limit=60,
        speedup=20.0,
        records=EVERYTHING,
        out=tmp_path_factory.mktemp("runs") / "crowded",
    )


@pytest.fixture(scope="module")
def whole(crowded: Run, tmp_path_factory: pytest.TempPathFactory) -> Events:
    """The events of all of it."""
    return drawn(crowded, tmp_path_factory.mktemp("whole"))


def drawn(run: Run, folder: Path, **options: Any) -> Events:
    write_timeline(run, folder / "t.json", **options)
    return check((folder / "t.json").read_text(encoding="utf-8"))


def of(events: Events, process: str, phase: str = "X") -> Events:
    """The events of a process, by the beginning of its name."""
    [pid] = [
        event["pid"]
        for event in events
        if event["name"] == "process_name" and event["args"]["name"].startswith(process)
    ]
    return [event for event in events if event["pid"] == pid and event["ph"] == phase]


def by_request(events: Events, phase: str = "X") -> dict[str, Events]:
    """The events of each request, by its id; the first is the request itself."""
    tracks = defaultdict(list)
    for event in of(events, "requests", phase):
        tracks[event["tid"]].append(event)
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    return {names[tid]: track for tid, track in tracks.items()}


def origin(run: Run) -> int:
    first = run.steps.iloc[0]
    phases = ("receive", "schedule", "prepare", "launch")
    begin = first["launch_ns"] - sum(first[f"host_{phase}_ns"] for phase in phases)
    return int(min(run.requests["arrival_ns"].min(), begin))


def test_the_device_has_the_steps_of_the_step_table(crowded: Run, whole: Events) -> None:
    device = of(whole, "device")
    steps, zero = crowded.steps, origin(crowded)
    assert [e["ts"] + zero for e in device] == steps["start_ns"].tolist()
    assert [e["ts"] + e["dur"] + zero for e in device] == steps["end_ns"].tolist()
    assert [e["name"] for e in device] == steps["mode"].tolist()
    assert [e["args"]["kv_tokens_read"] for e in device] == steps["kv_tokens_read"].tolist()


def test_the_host_has_each_phase_for_as_long_as_it_took(crowded: Run, whole: Events) -> None:
    host = of(whole, "host")
    ends = {(e["name"], e["args"]["iteration"]): e["ts"] + e["dur"] for e in host}
    zero = origin(crowded)
    for phase in ("receive", "schedule", "prepare", "launch", "collect", "commit"):
        taken = sum(event["dur"] for event in host if event["name"] == phase)
        assert taken == crowded.steps[f"host_{phase}_ns"].sum()
    for column, phase in (("launch_ns", "launch"), ("commit_ns", "commit")):
        for number, time in zip(crowded.steps["iteration"], crowded.steps[column], strict=True):
            assert ends[phase, number] == time - zero
    # one thread does all of it, one thing at a time
    assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(host))


def test_counters_are_those_of_the_step_table(crowded: Run, whole: Events) -> None:
    counters = of(whole, "queue", "C")
    at = {(e["name"], e["ts"]): e["args"] for e in counters}
    zero, capacity = origin(crowded), crowded.manifest["kv_capacity_tokens"]
    for step in crowded.steps.itertuples():
        queue = {"waiting": step.waiting, "running": step.running}
        assert at["requests", step.launch_ns - zero] == queue
        kv = at["KV tokens", step.launch_ns - zero]
        assert (kv["free"], kv["cached"]) == (step.free_tokens, step.evictable_tokens)
        assert sum(kv.values()) == capacity
    assert counters[-1]["args"] == {"waiting": 0, "running": 0}


def test_a_request_is_queued_prefilled_decoded_and_retracted_without_a_gap(
    crowded: Run, whole: Events
) -> None:
    tracks, zero = by_request(whole), origin(crowded)
    requests = crowded.requests
    assert requests["retractions"].sum() > 0
    assert list(tracks) == requests.sort_values("arrival_ns", kind="stable")["id"].tolist()
    for row in requests.itertuples():
        whole, *inner = tracks[row.id]
        spans = [event for event in inner if event["name"] != "chunk"]
        assert whole["ts"] + zero == row.arrival_ns
        assert spans[0]["ts"] == whole["ts"]
        assert all(a["ts"] + a["dur"] == b["ts"] for a, b in pairwise(spans))
        assert spans[-1]["ts"] + spans[-1]["dur"] + zero == row.finish_ns
        again = ["retracted", "prefill", "decode"] * row.retractions
        assert [e["name"] for e in spans if e["name"] != "queued"] == ["prefill", "decode", *again]
        prefill = next(event for event in spans if event["name"] == "prefill")
        assert prefill["ts"] + zero == row.first_scheduled_ns
        assert prefill["ts"] + prefill["dur"] + zero == row.first_token_ns


def test_chunks_are_the_steps_that_computed_the_prompt(crowded: Run, whole: Events) -> None:
    tracks, zero = by_request(whole), origin(crowded)
    steps = crowded.steps.set_index("iteration")
    most = 0
    for row in crowded.requests.itertuples():
        chunks = [event for event in tracks[row.id] if event["name"] == "chunk"]
        most = max(most, len(chunks))
        for chunk in chunks:
            step = steps.loc[chunk["args"]["iteration"]]
            ran = (step["start_ns"] - zero, step["end_ns"] - zero)
            assert (chunk["ts"], chunk["ts"] + chunk["dur"]) == ran
        if not row.retractions:
            computed = sum(chunk["args"]["tokens"] for chunk in chunks)
            assert computed == row.prompt_tokens - row.cached_tokens
    assert most > 2


def test_a_retracted_request_is_in_no_step_while_it_waits(crowded: Run, whole: Events) -> None:
    log = crowded.decisions
    log, zero = log[log["kind"] == "item"], origin(crowded)
    tracks = by_request(whole)
    waits = 0
    for name, track in tracks.items():
        launched = log.loc[log["request_id"] == name, "time_ns"] - zero
        for wait in (event for event in track if event["name"] == "retracted"):
            waits += 1
            assert not launched.between(wait["ts"], wait["ts"] + wait["dur"], "left").any()
    assert waits == crowded.requests["retractions"].sum()


def test_each_token_is_an_instant(crowded: Run, whole: Events) -> None:
    tokens, zero = by_request(whole, "i"), origin(crowded)
    for row in crowded.requests.itertuples():
        assert [event["ts"] + zero for event in tokens[row.id]] == list(row.token_times_ns)


def test_a_window_shows_what_was_there_cut_at_its_edges(
    crowded: Run, whole: Events, tmp_path: Path
) -> None:
    begin, end = 2_000_000_000, 2_500_000_000
    part = drawn(crowded, tmp_path, window_ms=(2000, 2500))
    shown = [event for event in part if event["ph"] != "M"]
    assert min(event["ts"] for event in shown) >= begin
    assert max(event["ts"] + event.get("dur", 0) for event in shown) <= end
    for process in ("device", "host"):
        there = [
            (max(e["ts"], begin), min(e["ts"] + e["dur"], end))
            for e in of(whole, process)
            if e["ts"] < end and e["ts"] + e["dur"] > begin
        ]
        assert [(e["ts"], e["ts"] + e["dur"]) for e in of(part, process)] == there
    alive = [
        name
        for name, (request, *_) in by_request(whole).items()
        if request["ts"] < end and request["ts"] + request["dur"] > begin
    ]
    assert list(by_request(part)) == alive
    # one and the same event is at one and the same time in both
    assert {e["ts"] for e in of(part, "queue", "C")} < {e["ts"] for e in of(whole, "queue", "C")}


def test_request_tracks_are_limited_and_it_is_said(crowded: Run, tmp_path: Path) -> None:
    written = write_timeline(crowded, tmp_path / "t.json", requests=7)
    text = (tmp_path / "t.json").read_text(encoding="utf-8")
    first = crowded.requests.sort_values("arrival_ns", kind="stable")["id"].tolist()[:7]
    assert list(by_request(check(text))) == first
    assert (written.requests, written.requests_there) == (7, 60)
    assert "of 60 requests the first 7 by arrival have a track" in written.notes
    assert "requests (first 7 of 60 by arrival)" in text
    assert json.loads(text)["metadata"]["not shown"] == list(written.notes)
    assert not by_request(drawn(crowded, tmp_path, requests=0))


def test_the_file_depends_on_the_records_alone(
    crowded: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_timeline(crowded, tmp_path / "a.json")
    write_timeline(crowded, tmp_path / "b.json.gz")
    plain = (tmp_path / "a.json").read_bytes()
    assert gzip.decompress((tmp_path / "b.json.gz").read_bytes()) == plain
    assert crowded.path is not None
    monkeypatch.setattr(row_reader, "BATCH_ROWS", 7)  # however few rows are held at a time
    write_timeline(load_run(crowded.path), tmp_path / "c.json.gz")
    assert (tmp_path / "c.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    assert not list(tmp_path.glob("*.tmp"))


# -- runs that know less ------------------------------------------------------------------------------


def test_without_decisions_spans_are_the_requests_own(make_run: Any, tmp_path: Path) -> None:
    run = make_run(n=30)
    for name, (_, *spans) in by_request(drawn(run, tmp_path)).items():
        assert [e["name"] for e in spans if e["dur"]][:2] == ["queued", "prefill"], name
    notes = write_timeline(run, tmp_path / "t.json").notes
    assert any("no decision log (--records steps,decisions)" in note for note in notes)
    assert any("--records tokens" in note for note in notes)


def test_without_steps_there_are_requests_alone(request_of: Any, tmp_path: Path) -> None:
    writer = RunWriter(None, {}, ("requests",))
    writer.request(request_of(retractions=2, tenant="a", id='say "a\\b"\n'))
    run = writer.close()
    events = drawn(run, tmp_path)
    [(name, spans)] = by_request(events).items()
    assert name == 'say "a\\b"\n (a)'
    assert [e["name"] for e in spans[1:]] == ["queued", "prefill", "decode, retracted 2 times"]
    assert [(e["ts"], e["dur"]) for e in spans[1:]] == [(0, 10), (10, 10), (20, 30)]
    assert any("no step table" in n for n in write_timeline(run, tmp_path / "t.json").notes)


def test_a_retraction_that_the_log_does_not_show_is_told(
    request_of: Any, step_of: Any, tmp_path: Path
) -> None:
    writer = RunWriter(None, {}, EVERYTHING)
    writer.request((*request_of(retractions=1), [20, 30, 40, 50]))
    writer.steps.append(step_of(launch_ns=10, start_ns=10, end_ns=18, commit_ns=20))
    writer.decision((0, "item", 10, "r0", None, "prefill", 0, 40, 60, None, False))
    run = writer.close()
    [(_, *spans)] = by_request(drawn(run, tmp_path)).values()
    named = [(e["name"], e["ts"], e["dur"]) for e in spans]
    assert named == [("queued", 0, 10), ("prefill", 10, 10), ("chunk", 10, 8), ("decode", 20, 30)]
    assert any("1 of 1 retractions" in n for n in write_timeline(run, tmp_path / "t.json").notes)


def test_requests_that_never_ran_or_never_ended(request_of: Any, tmp_path: Path) -> None:
    never = {"first_scheduled_ns": None, "first_token_ns": None, "output_tokens": 0}
    writer = RunWriter(None, {"end_ns": 90}, ("requests",))
    writer.request(request_of(id="refused", finish_ns=5, finish_reason="refused", **never))
    writer.request(request_of(id="aborted", finish_ns=40, finish_reason="abort", **never))
    writer.request(request_of(id="left", finish_ns=None, finish_reason=None))
    tracks = by_request(drawn(writer.close("interrupted"), tmp_path))
    named = {key: [(e["name"], e["dur"]) for e in track] for key, track in tracks.items()}
    assert named["refused"] == [("request", 5), ("refused", 5)]
    assert named["aborted"] == [("request", 40), ("queued", 40)]
    assert named["left"][0] == ("request, unfinished", 90)
    assert named["left"][-1] == ("decode", 70)


def test_records_in_which_the_host_does_two_things_at_once_are_told(
    request_of: Any, step_of: Any, tmp_path: Path
) -> None:
    writer = RunWriter(None, {})
    writer.request(request_of())
    for i in range(2):
        times = {"launch_ns": 50 + i, "start_ns": 50 + i, "end_ns": 90, "commit_ns": 99 + 20 * i}
        writer.steps.append(step_of(iteration=i, host_launch_ns=20, host_commit_ns=5, **times))
    events = drawn(run := writer.close(), tmp_path)
    assert [(e["ts"], e["dur"]) for e in of(events, "device")] == [(50, 40), (90, 0)]
    assert any("began before" in note for note in write_timeline(run, tmp_path / "t.json").notes)


def test_an_empty_run_has_an_empty_timeline(tmp_path: Path) -> None:
    assert {e["ph"] for e in drawn(RunWriter(None, {}).close(), tmp_path)} == {"M"}


# -- the command --------------------------------------------------------------------------------------


def test_the_command_writes_it_and_says_what_is_not_shown(crowded: Run, tmp_path: Path) -> None:
    out = tmp_path / "new" / "t.json.gz"
    arguments = ["timeline", str(crowded.path), "--out", str(out), "--limit-ms", "1000:"]
    result = CliRunner().invoke(main, [*arguments, "--requests", "5"])
    assert result.exit_code == 0, result.output
    assert re.search(r"events, 5 of \d\d requests; open it in https", result.stdout)
    assert re.search(r"not shown: of \d\d requests the first 5 by arrival", result.stderr)
    check(gzip.decompress(out.read_bytes()).decode())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--out", "t.json", "--limit-ms", "5"), "--limit-ms 5: give it as A:B"),
        (("--out", "t.json", "--limit-ms", "x:5"), "give it as A:B"),
        (("--out", "t.json", "--limit-ms", "9:5"), "window 9:5 ms: it has to run from 0"),
        (("--out", "t.json", "--limit-ms", "nan:5"), "it has to run from 0"),
        (("--out", "steps.parquet"), "name the file .json or .json.gz"),
        (("--out", "t.json", "--requests", "-1"), "-1 is not in the range"),
        ((), "Missing option '--out'"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    arguments: tuple[str, ...],
    says: str,
    make_run: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_run(tmp_path / "run", n=3)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["timeline", "run", *arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
