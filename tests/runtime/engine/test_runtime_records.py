"""What a run leaves behind: the same tables as a simulation's, true to what happened."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from policies import (
    LOOPS,
    Collect,
    Inbox,
    Launch,
    PolicyConfig,
    Receive,
    Report,
    Request,
    Scheduler,
    Sleep,
    StepResult,
    TokenLog,
)
from policies.effects import NOT_REPEATED, Repeat
from runtime import load_model, replay
from traces.records.run import Run, load_run
from traces.records.schema import RECORDS, TABLES
from traces.tokens import ExplicitTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from pathlib import Path

    from runtime import LoadedModel
    from tests.runtime.conftest import TinyModel

MS = 1_000_000
FAMILIES: dict[str, dict[str, Any]] = {
    "prefill-first": {
        "chunked_prefill_size": 16,
        "new_token_ratio": {"init": 0.01, "min_factor": 0.01},
    },
    "mixed": {
        "batching": "mixed",
        "chunked_prefill_size": 16,
        "new_token_ratio": {"init": 0.01, "min_factor": 0.01},
    },
    "decode-first": {
        "batching": "decode-first",
        "cache": "blocks",
        "chunked_prefill_size": None,
        "batching_options": {"max_num_batched_tokens": 16},
    },
}


@pytest.fixture(scope="module")
def loaded(tiny_model: TinyModel) -> LoadedModel:
    return load_model(tiny_model("llama"), dtype="float32")


def trace(count: int = 14, *, gap_ms: int = 3) -> Workload:
    """Prompts that share a prefix; one client gives up, one asks for more than there is."""
    rng = np.random.default_rng(3)
    shared = rng.integers(10, 1000, 24)
    requests = []
    for i in range(count):
        ids = [*shared[: rng.integers(0, 24)], *rng.integers(10, 1000, rng.integers(1, 9))]
        output = int(rng.integers(1, 40))
        requests.append(
            TraceRequest(
                f"r{i}",
                i * gap_ms * MS,
                ExplicitTokens([int(x) for x in ids]),
                ExplicitTokens(np.zeros(output, dtype=np.int32)),
                max_new_tokens=output if i % 2 else output + 5,
                ignore_eos=bool(i % 2),
                tenant=f"t{i % 2}",
                abort_ns=i * gap_ms * MS + 5 * MS if i == 6 else None,
            )
        )
    long = ExplicitTokens(np.arange(10, 210))
    requests.append(TraceRequest("long", count * gap_ms * MS, long, ExplicitTokens([1])))
    return Workload("test", requests)


def play(loaded: LoadedModel, out: Path | None = None, **policy: Any) -> Run:
    config = {
        "policy": {"page_size": 4, "max_running_requests": 8, **policy},
        "kv": {"capacity_tokens": 112},
    }
    return replay(trace(), config, loaded=loaded, records=RECORDS, out=out)


@pytest.mark.parametrize("overlap", ["overlapped", "serial"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_says_what_happened(loaded: LoadedModel, family: str, overlap: str) -> None:
    run = play(loaded, overlap=overlap, **FAMILIES[family])
    assert run.status == "complete"
    requests = run.requests.set_index("id")
    assert len(requests) == 15
    assert requests.loc["long", "finish_reason"] == "refused"
    asked = {r.id: r for r in trace()}
    done = requests[requests.finish_reason.isin(["stop", "length"])]
    assert len(done) >= 13
    for name, row in done.iterrows():
        assert row.output_tokens == len(asked[name].output), "lengths are the trace's"
        assert row.finish_reason == ("length" if asked[name].ignore_eos else "stop")
        times = row.token_times_ns
        assert len(times) == row.output_tokens
        assert row.arrival_ns <= row.first_scheduled_ns < row.first_token_ns == times[0]
        assert times[-1] == row.finish_ns
        assert (np.diff(times) > 0).all()
    gaps = np.concatenate([np.diff(times) for times in requests.token_times_ns])
    assert run.manifest["itl"]["count"] == len(gaps)
    assert run.manifest["itl"]["mean_ns"] == pytest.approx(gaps.mean())
    assert run.manifest["itl"]["max_ns"] == gaps.max()


@pytest.mark.parametrize("overlap", ["overlapped", "serial"])
def test_steps_follow_one_another(loaded: LoadedModel, overlap: str) -> None:
    run = play(loaded, overlap=overlap, **FAMILIES["mixed"])
    steps = run.steps
    assert (steps.iteration.diff().dropna() > 0).all()
    busy = steps[steps["mode"] != "empty"]
    assert (busy.launch_ns <= busy.start_ns).all()
    assert (busy.start_ns < busy.end_ns).all()
    assert (busy.end_ns <= busy.commit_ns).all()
    assert (busy.start_ns.to_numpy()[1:] >= busy.end_ns.to_numpy()[:-1]).all()
    phases = [c for c in steps.columns if c.startswith("host_")]
    assert (steps[phases] >= 0).all(axis=None)
    assert (busy[phases].drop(columns="host_collect_ns") > 0).all(axis=None)
    assert run.manifest["device_busy_ns"] == (steps.end_ns - steps.start_ns).sum()
    gap = busy.launch_ns.to_numpy()[1:] < busy.end_ns.to_numpy()[:-1]
    assert gap.any() == (overlap == "overlapped"), "the next step is launched while one runs"
    total = steps.free_tokens + steps.evictable_tokens + steps.protected_tokens
    assert (total <= 112).all()
    given = run.requests.output_tokens.sum()
    assert steps.decode_requests.sum() + run.requests.first_token_ns.notna().sum() >= given


@pytest.mark.parametrize("overlap", ["overlapped", "serial"])
@pytest.mark.parametrize("family", FAMILIES)
def test_decisions_can_be_taken_again(loaded: LoadedModel, family: str, overlap: str) -> None:
    """A scheduler that is told what this one was told plans the same batches, item for item."""
    run = play(loaded, overlap=overlap, **FAMILIES[family])
    assert run.manifest["kv_capacity_tokens"] == 112
    replayed = decide_again(run, overlap)
    recorded = items_of(run)
    assert list(replayed) == sorted(recorded)
    assert replayed == recorded
    again = decide_again(run, overlap, forget="r3")
    assert again != recorded, "the comparison would notice"


def items_of(run: Run) -> dict[int, list[tuple[Any, ...]]]:
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    table = run.arrow("decisions").to_pylist()
    for row in table:
        if row["kind"] == "item":
            keys = ("request_id", "item_kind", "start", "length")
            found[row["iteration"]].append(tuple(row[key] for key in keys))
    iterations = [row["iteration"] for row in table]
    assert iterations == sorted(iterations), "rows stand in the order of the rounds"
    return dict(found)


def decide_again(run: Run, overlap: str, forget: str = "") -> dict[int, list[tuple[Any, ...]]]:
    """Drive a scheduler with the inboxes and results of a run; what its batches hold."""
    resolved, policy = run.manifest["resolved"], run.manifest["config"]["policy"]
    keys = ("chunked_prefill_size", "max_running_requests", "context_limit", "batching_options")
    config = PolicyConfig(**{**policy, **{key: resolved[key] for key in keys}})
    tokens = {row["request_id"]: row for row in run.arrow("tokens").to_pylist()}
    asked = run.requests.set_index("id")
    inboxes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    results: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    rounds: list[list[dict[str, Any]]] = []
    for row in run.arrow("decisions").to_pylist():
        if row["kind"] == "receive":
            if not rounds or rounds[-1][0]["time_ns"] != row["time_ns"]:
                rounds.append([])
            rounds[-1].append(row)
            inboxes[row["iteration"]].append(row)
        elif row["sampled_token"] is not None:
            results[row["iteration"]].append((row["sampled_token"], row["stop"]))
    logs: dict[str, TokenLog] = {}
    workload = {r.id: r for r in trace()}

    def request(name: str, now: int) -> Request:
        logs[name] = log = TokenLog(tokens[name]["prompt"])
        r = workload[name]
        count = 1 if name == forget else int(asked.loc[name, "requested_max_new_tokens"])
        arrival = int(asked.loc[name, "arrival_ns"])
        return Request(name, log, count, arrival, ignore_eos=r.ignore_eos, tenant=r.tenant)

    scheduler = Scheduler(config, run.manifest["kv_capacity_tokens"])
    loop = LOOPS[overlap](scheduler)
    found: dict[int, list[tuple[Any, ...]]] = {}
    answer: Any = None
    at = 0
    while True:
        effect = loop.send(answer)
        answer = None
        match effect:
            case Receive():
                if at == len(rounds):
                    return found
                rows, at = rounds[at], at + 1
                now = rows[0]["time_ns"]
                come = [request(r["request_id"], now) for r in rows if r["event"] == "arrival"]
                gone = [r["request_id"] for r in rows if r["event"] == "abort"]
                answer = Inbox(now, come, gone)
            case Launch(batch):
                items = [(i.request.id, "prefill", i.start, i.length) for i in batch.prefill]
                places = [(i.request.id, i.seq_len) for i in batch.prefill if i.samples]
                if batch.decode is not None:
                    lens = batch.decode.seq_lens().tolist()
                    pairs = list(zip(batch.decode.requests, lens, strict=True))
                    items += [(r.id, "decode", length - 1, 1) for r, length in pairs]
                    places += [(r.id, length) for r, length in pairs]
                if items:
                    found[batch.iteration] = items
                answer = batch, places
            case Collect((batch, places)):
                told = results[batch.iteration][: len(places)]
                ids = [token for token, _ in told] + [0] * (len(places) - len(told))
                for (name, place), token in zip(places, ids, strict=True):
                    logs[name].write(place - logs[name].prompt_len, token)
                answer = StepResult([i for i, (_, stop) in enumerate(told) if stop])
            case Repeat():
                answer = NOT_REPEATED
            case Report() | Sleep():
                pass


def test_a_run_on_disk_is_the_run_in_memory(loaded: LoadedModel, tmp_path: Path) -> None:
    run = play(loaded, tmp_path / "run", **FAMILIES["prefill-first"])
    again = load_run(tmp_path / "run")
    assert again.manifest == run.manifest
    for name in TABLES:
        assert again.arrow(name).num_rows == again.manifest["tables"][name] > 0
    assert again.manifest["workload"]["name"] == "test"


def test_a_closed_loop_waits_for_answers(loaded: LoadedModel) -> None:
    prompt, output = ExplicitTokens([5, 6, 7]), ExplicitTokens([1] * 6)
    turns = [
        TraceRequest(
            f"turn{i}",
            0,
            prompt,
            output,
            session="chat",
            depends_on=(f"turn{i - 1}",) if i else (),
            delay_ns=2 * MS if i else 0,
        )
        for i in range(3)
    ]
    run = replay(Workload("chat", turns), {"kv": {"capacity_tokens": 64}}, loaded=loaded)
    rows = run.requests.sort_values("arrival_ns")
    waits = rows.arrival_ns.to_numpy()[1:] - rows.finish_ns.to_numpy()[:-1]
    assert (waits == 2 * MS).all()


def test_ctrl_c_keeps_what_was_recorded(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.recorder import Recorder

    before = Recorder.committed

    def interrupted(self: Recorder, *given: Any) -> None:
        before(self, *given)
        if self.steps == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "committed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        play(loaded, tmp_path / "run", **FAMILIES["mixed"])
    run = load_run(tmp_path / "run")
    assert run.status == "interrupted"
    assert run.manifest["tables"]["steps"] == 7
    assert run.manifest["counts"]["unfinished"] > 0
