"""Chats and agents: what a session says again is what it said before, and it waits as told."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from traces.generate import WorkloadSpec, generate
from traces.generate.sessions import AnswerTime
from traces.inspect import inspect
from traces.load import ClosedLoop
from traces.sessions import by_session

LENGTHS = {
    "input": {"kind": "uniform", "low": 1, "high": 30},
    "output": {"kind": "uniform", "low": 1, "high": 20},
}


def chats(seed=0, sessions=30, rate=0.5, **options):
    spec = {
        "arrivals": {"kind": "poisson", "rate": rate},
        "lengths": LENGTHS,
        "prefix": {"kind": "chat", "turns": {"kind": "uniform", "low": 1, "high": 5}, **options},
    }
    return generate(WorkloadSpec.model_validate(spec), sessions=sessions, seed=seed)


def agents(seed=0, sessions=20, **options):
    given_options = {
        "kind": "agents",
        "steps": {"kind": "uniform", "low": 1, "high": 8},
        "first_tokens": {"kind": "uniform", "low": 20, "high": 60},
        "wait_s": {"kind": "exponential", "mean": 5},
        **options,
    }
    spec = {
        "arrivals": {"kind": "poisson", "rate": 0.1},
        "lengths": LENGTHS,
        "prefix": given_options,
    }
    return generate(WorkloadSpec.model_validate(spec), sessions=sessions, seed=seed)


def said(request) -> list[int]:
    return [*request.prompt.array().tolist(), *request.output.array().tolist()]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([chats, agents]))
def test_a_prompt_is_all_that_was_said_before_and_something_new(seed, make):
    for session in by_session(make(seed=seed, sessions=8)).values():
        for before, after in pairwise(session):
            history = said(before)
            prompt = after.prompt.array().tolist()
            assert prompt[: len(history)] == history
            assert 1 <= len(prompt) - len(history) <= 30
            assert after.depends_on == (before.id,)
            assert after.turn == before.turn + 1


@pytest.mark.parametrize("make", [chats, agents])
def test_stamps_are_those_of_answers_that_take_as_long_as_said(make):
    answer = AnswerTime(
        base_s=1.0, per_output_token_s=0.1, per_new_token_s=0.01, per_prompt_token_s=0.001
    )
    for session in by_session(make(answer=answer.model_dump())).values():
        new = len(session[0].prompt)
        for before, after in pairwise(session):
            took = answer.ns(len(before.prompt), new, len(before.output))
            assert after.arrival_ns == before.arrival_ns + took + after.delay_ns
            new = len(after.prompt) - len(before.prompt) - len(before.output)


def test_a_closed_loop_follows_the_waits():
    work = chats(sessions=5)
    load = ClosedLoop(work)
    sent: dict[str, int] = {}
    ended: dict[str, int] = {}
    while (now := load.next_ns()) is not None:
        for arrival in load.take(now)[0]:
            sent[arrival.request.id] = now
            ended[arrival.request.id] = now + 7
        for name in [name for name in sent if ended[name] == now + 7]:
            load.ended(name, ended[name])
    assert len(sent) == len(work)
    for request in work:
        for other in request.depends_on:
            assert sent[request.id] == ended[other] + request.delay_ns


def test_conversations_share_their_system_prompts():
    prompts = {"count": 3, "zipf_alpha": 1.0}
    work = chats(sessions=200, system_prompts=prompts, system_tokens=40)
    begins = [r.prompt.array()[:40].tobytes() for r in work if r.turn == 0]
    counts = sorted((begins.count(one) for one in set(begins)), reverse=True)
    assert [count / 200 for count in counts] == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.1)


def test_a_conversation_ends_before_it_is_too_long():
    work = chats(sessions=60, longest=70, turns=20)
    assert 40 < max(len(request.prompt) for request in work) <= 70


def test_agents_share_layers():
    group = {"popularity": {"count": 2}, "tokens": 16}
    work = agents(shared_tokens=32, group=group, sessions=40)
    first = [request.prompt.array() for request in work if request.turn == 0]
    assert len({ids[:32].tobytes() for ids in first}) == 1
    assert len({ids[:48].tobytes() for ids in first}) == 2
    assert len({ids[:60].tobytes() for ids in first}) == 40


def test_a_context_is_rewritten_by_chance_and_when_it_is_full():
    rewriting = {
        "chance": {"base": 0.2},
        "keep_tokens": 10,
        "ratio": 0.5,
        "full_ratio": 0.25,
    }
    work = agents(
        sessions=60, steps=30, windows=[{"tokens": 200}], rewriting=rewriting, first_tokens=60
    )
    cuts = 0
    for session in by_session(work).values():
        for before, after in pairwise(session):
            history, prompt = np.array(said(before)), after.prompt.array()
            assert len(prompt) <= 200
            if len(prompt) > len(history):
                assert (prompt[: len(history)] == history).all()
                continue
            cuts += 1
            kept = min(10, len(prompt) - 1)
            assert (prompt[:kept] == history[:kept]).all()
            assert prompt[kept] != history[kept]
            assert len(prompt) in {round(0.5 * len(history)), round(0.25 * len(history))}
    assert cuts / len(work) == pytest.approx(0.25, abs=0.06)


def test_without_rewriting_a_full_context_ends_the_session():
    work = agents(steps=50, windows=[{"tokens": 150}])
    assert 100 < max(len(request.prompt) for request in work) <= 150
    assert max(len(session) for session in by_session(work).values()) < 50


def test_sessions_end_by_chance():
    work = agents(sessions=400, steps=None, ends={"base": 0.25})
    assert len(work) / 400 == pytest.approx(4, rel=0.15)


def test_subagents_are_joined():
    subagents = {
        "chance": 0.5,
        "at_once": {"kind": "uniform", "low": 1, "high": 3},
        "steps": 2,
        "first_tokens": 25,
    }
    work = agents(sessions=30, steps=4, subagents=subagents)
    joins = 0
    for session in by_session(work).values():
        own = [r for r in session if "." not in r.id]
        assert [request.turn for request in session] == list(range(len(session)))
        for before, after in pairwise(own):
            helpers = [r for r in session if r.id.startswith(f"{before.id}.")]
            firsts = [r for r in helpers if r.depends_on == (before.id,)]
            lasts = [r for r in helpers if not any(r.id in o.depends_on for o in helpers)]
            assert len(helpers) == 2 * len(firsts)
            assert all(len(r.prompt) == 25 for r in firsts)
            # the agent goes on when all have ended, with its own context
            assert set(after.depends_on) == ({r.id for r in lasts} or {before.id})
            assert after.prompt.array().tolist()[: len(said(before))] == said(before)
            joins += len(firsts)
    assert joins > 30


def test_outputs_are_found_again_only_in_prompts():
    # with one session after another, all but what is new in a prompt was seen, but for the answer
    work = chats(sessions=50, turns=6)
    found = inspect(work, block_size=1).endless_hit_ratio
    prompts = sum(len(request.prompt) for request in work)
    again = sum(
        len(before.prompt)
        for session in by_session(work).values()
        for before, _ in pairwise(session)
    )
    assert found == pytest.approx(again / prompts, abs=1e-3)


def test_sessions_without_an_end_are_refused():
    with pytest.raises(ValidationError, match="sessions have no end"):
        agents(steps=None)
