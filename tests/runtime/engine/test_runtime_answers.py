"""A replayed trace's answers take the place of what the model samples."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from policies.tokens import TokenLog
from runtime.answers import AnsweredLog, Answers
from runtime.trace_replay import replay
from simulator.simulation import simulate
from simulator.verify import verify
from tests.twin.test_verify import MODEL
from traces.tokens import ExplicitTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from pathlib import Path

    from traces.records.run import Run

VOCAB = int(MODEL["vocab_size"])
POLICIES = {
    "prefill-first": {"page_size": 1, "chunked_prefill_size": 16},
    "prefill-first, serial": {"page_size": 4, "overlap": "serial"},
    "decode-first": {
        "page_size": 4,
        "batching": "decode-first",
        "cache": "blocks",
        "batching_options": {"max_num_batched_tokens": 24},
    },
}


def conversation(users: int, turns: int, seed: int = 0) -> Workload:
    """Each turn's prompt is all that was said before, and something new."""
    draw = np.random.default_rng(seed)
    requests = []
    for user in range(users):
        said: list[int] = []
        for turn in range(turns):
            said += draw.integers(0, VOCAB, 9 + user).tolist()
            answer = draw.integers(0, VOCAB, 6 + turn).tolist()
            name = f"u{user}t{turn}"
            requests.append(
                TraceRequest(
                    name,
                    user * 10_000_000,
                    ExplicitTokens(list(said)),
                    ExplicitTokens(answer),
                    session=f"u{user}",
                    depends_on=(f"u{user}t{turn - 1}",) if turn else (),
                )
            )
            said += answer
    return Workload("conversation", requests)


def played(
    work: Workload, tmp_path: Path, policy: dict[str, Any], capacity: int = 512, **runtime: Any
) -> Run:
    (tmp_path / "config.json").write_text(
        json.dumps({**MODEL, "torch_dtype": "bfloat16"}), encoding="utf-8"
    )
    config = {
        "policy": {"max_running_requests": 4, **policy},
        "model": {"path": str(tmp_path), "weight_dtype": "fp32"},
        "kv": {"capacity_tokens": capacity},
        "runtime": {"load_format": "dummy", "device": "cpu", **runtime},
    }
    return replay(work, config, out=tmp_path / "run", overwrite=True)


def sampled(run: Run) -> dict[str, list[int]]:
    """The tokens that each request was given, in order; those given again count once."""
    rows = run.decisions
    rows = rows[rows["sampled_token"].notna()]
    places = rows["start"] + rows["length"]
    last = rows.assign(place=places).drop_duplicates(["request_id", "place"], keep="last")
    return {
        str(name): group.sort_values("place")["sampled_token"].astype(int).tolist()
        for name, group in last.groupby("request_id")
    }


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_what_is_said_and_what_is_cached_is_the_trace_s(
    policy: dict[str, Any], tmp_path: Path
) -> None:
    work = conversation(3, 3)
    run = played(work, tmp_path, policy)
    said = sampled(run)
    for request in work:
        assert said[request.id] == request.output.array().tolist()
    config = run.manifest["config"]
    shared = {key: config[key] for key in ("policy", "kv")}
    simulated = simulate(work, {**shared, "model": {"path": str(tmp_path)}})
    real, foretold = (r.requests.set_index("id")["cached_tokens"] for r in (run, simulated))
    assert real.to_dict() == foretold.to_dict()
    assert real.sum() > 0
    assert verify(run).identical


def test_a_retracted_request_goes_on_with_its_answer(tmp_path: Path) -> None:
    work = conversation(4, 1)
    long = [
        TraceRequest(r.id, 0, r.prompt, ExplicitTokens(list(range(40 + i, 80 + i))))
        for i, r in enumerate(work)
    ]
    run = played(Workload("long", long), tmp_path, POLICIES["decode-first"], capacity=120)
    assert run.requests["retractions"].sum() > 0
    said = sampled(run)
    assert all(said[r.id] == r.output.array().tolist() for r in long)


def test_the_model_may_say_what_it_likes(tmp_path: Path) -> None:
    work = conversation(2, 2)
    cached = {}
    for answers in ("trace", "sampled"):
        run = played(work, tmp_path, POLICIES["prefill-first"], answers=answers)
        cached[answers] = run.requests["cached_tokens"].sum()
    said = sampled(run)
    assert [len(said[r.id]) for r in work] == [len(r.output) for r in work]
    assert any(said[r.id] != r.output.array().tolist() for r in work)
    assert 0 < cached["sampled"] < cached["trace"], (
        "of what follow-ups repeat, prompts alone are cached"
    )


def test_past_an_answer_s_end_and_without_one_nothing_is_told() -> None:
    answers = Answers(rows=2, max_len=6)
    prompt = np.array([5, 6], dtype=np.int32)
    answers.admit(1, AnsweredLog(prompt, np.array([0, 9], dtype=np.int32)))
    rows, places = np.ones(4, dtype=np.int64), np.arange(2, 6)
    assert answers.at(rows, places).tolist() == [0, 9, -1, -1]
    answers.admit(1, AnsweredLog(prompt, np.arange(100, dtype=np.int32)))
    assert answers.at(rows, places).tolist() == [0, 1, 2, 3], "as long as a request may be"
    answers.admit(1, TokenLog(prompt))
    assert answers.at(rows, places).tolist() == [-1] * 4, "nothing is left of who was there"
