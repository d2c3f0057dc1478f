"""Each format is found by its content, and its units, blocks and sessions are read as it means them.

Rows are written from the formats' schemas.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zstandard

from tests.traces.format_examples import (
    AGENTIC_HEADER,
    AIPERF,
    APPLIED,
    BAILIAN,
    BURST,
    BURST_SESSIONS,
    CHAT,
    DELTAS,
    EXAMPLES,
    FLAT,
    LMCACHE,
    MOONCAKE_SESSION,
    NANOFLOW,
    SUB_REQUESTS,
    VIDUR,
    VIDUR_LENGTHS,
    agentic,
    dynamo,
    jsonl,
)
from traces import BlockTokens, SyntheticTokens, TraceRequest, Workload, read_trace
from traces.readers.registry import FORMATS
from traces.tokens import JoinedTokens, text_tokens

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 1_000_000_000
MS = 1_000_000


def read(folder: Path, text: str, **options: object) -> Workload:
    path = folder / "trace"
    path.write_text(text)
    return read_trace(path, **options)  # type: ignore[arg-type]


def by_id(workload: Workload) -> dict[str, TraceRequest]:
    return {request.id: request for request in workload}


def shares(one: TraceRequest, other: TraceRequest) -> int:
    """Leading tokens that two prompts have in common."""
    first, second = one.prompt.array(), other.prompt.array()
    length = min(len(first), len(second))
    same = first[:length] == second[:length]
    return length if same.all() else int(np.argmin(same))


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_the_format_is_found_by_content_however_it_is_compressed(tmp_path, name, pack):
    path = tmp_path / "no-suffix"
    path.write_bytes(pack(EXAMPLES[name].encode()))
    workload = read_trace(path)
    assert workload.meta["format"] == name
    assert workload.meta["sha256"] == hashlib.sha256(EXAMPLES[name].encode()).hexdigest()
    assert read_trace(path, format=name).requests == workload.requests


def test_every_format_has_its_facts_and_an_example_here_or_in_another_test():
    elsewhere = {"azure", "native", "weka"}
    assert set(FORMATS) == set(EXAMPLES) | elsewhere
    assert all(form.described and form.facts.unit in FACT_UNITS for form in FORMATS.values())


FACT_UNITS = ("", "date", "s", "ms", "us", "ns")


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_limit_gives_the_first_requests_and_what_they_wait_for(tmp_path, name):
    whole = read(tmp_path, EXAMPLES[name])
    for limit in range(1, len(whole) + 1):
        assert len(read(tmp_path, EXAMPLES[name], limit=limit)) == limit


def test_bailian_blocks_have_16_tokens_and_chats_are_linked_by_their_parents(tmp_path):
    first, second = read(tmp_path, BAILIAN)
    assert shares(first, second) == 32
    assert (first.id, second.depends_on, second.turn) == ("c7", ("c7",), 1)
    assert first.session == second.session == "c7"
    # seconds; nobody wrote down when the answer ended, so the delay is between the stamps
    assert (first.arrival_ns, second.arrival_ns, second.delay_ns) == (0, *[1_386 * MS] * 2)


def test_burstgpt_leaves_out_failed_calls_and_counts_them(tmp_path):
    workload = read(tmp_path, BURST)
    assert [(r.arrival_ns, len(r.prompt), len(r.output)) for r in workload] == [
        (0, 472, 18),
        (113 * SECOND, 417, 276),
    ]
    assert workload.meta["failed_calls_left_out"] == 1
    assert not workload.closed


def test_burstgpt_think_time_begins_when_the_answer_had_come(tmp_path):
    first, second, alone = read(tmp_path, BURST_SESSIONS)
    assert second.depends_on == (first.id,)
    assert second.delay_ns == round(11.5 * SECOND)
    assert (alone.session, alone.depends_on) == (None, ())


def test_vidur_reads_seconds_and_bare_lengths(tmp_path):
    assert [r.arrival_ns for r in read(tmp_path, VIDUR)] == [0, 4_314_579_000]
    [bare] = read(tmp_path, VIDUR_LENGTHS)
    assert (bare.arrival_ns, len(bare.prompt), len(bare.output)) == (0, 3772, 54)


def test_nanoflow_is_told_from_azure_though_the_headers_are_the_same(tmp_path):
    workload = read(tmp_path, NANOFLOW)
    assert [len(r.output) for r in workload] == [15, 513]
    assert "no times" in str(workload.meta["arrivals"])


def test_llmservingsim_keeps_the_token_ids(tmp_path):
    first, second = read(tmp_path, FLAT)
    assert first.prompt.array().tolist() == [4, 5]
    assert first.output.array().tolist() == [6, 7]
    assert (second.arrival_ns, len(second.prompt)) == (50, 5)


def test_llmservingsim_tools_are_waited_for_between_calls(tmp_path):
    first, second = read(tmp_path, SUB_REQUESTS)
    assert (second.depends_on, second.delay_ns, second.turn) == ((first.id,), 500, 1)
    assert shares(first, second) == 3


def test_chats_hold_what_was_said_before(tmp_path):
    for text in (
        jsonl({"id": "c", "conversations": CHAT}),
        json.dumps([{"id": "c", "conversations": CHAT}], indent=1),
        jsonl({"conversation": [{"role": "user", "content": "What is a trie?" * 3}, *CHAT[1:]]}),
    ):
        first, second = read(tmp_path, text)
        assert isinstance(second.prompt, JoinedTokens)
        assert second.prompt.parts[:2] == (first.prompt, first.output)
        assert second.depends_on == (first.id,)
        assert len(first.output) == len(text_tokens("A tree of prefixes."))


def test_text_shares_tokens_as_far_as_it_shares_whole_pieces():
    one, other = text_tokens("the same beginning, one"), text_tokens("the same beginning, two")
    same = one.array() == other.array()
    assert same[:5].all()
    assert not same.all()
    assert len(text_tokens("")) == 0
    assert len(text_tokens("äöü")) == 2


def test_lmcache_calls_are_put_in_order_and_empty_answers_counted(tmp_path):
    workload = read(tmp_path, LMCACHE)
    first, second = workload
    assert shares(first, second) == len(first.prompt) == 2
    assert (second.arrival_ns, second.delay_ns) == (SECOND // 2, SECOND // 2)
    assert workload.meta["empty_texts_read_as_one_token"] == 1


def test_applied_compute_sends_all_that_was_said_and_the_tools_output(tmp_path):
    calls = list(read(tmp_path, APPLIED))
    assert [len(c.prompt) for c in calls] == [16, 16 + 4 + 8, 16 + 4 + 8 + 5]
    assert [len(c.output) for c in calls] == [4, 5, 6]
    assert [c.delay_ns for c in calls] == [0, 10 * MS, 2 * SECOND]
    assert shares(calls[0], calls[1]) == 16


def test_agentic_mooncake_names_its_waits(tmp_path):
    text = jsonl(
        agentic("join", timestamp=9, wait_for=["root", "child"], delay=2, tool_wait_ms=3),
        agentic("root", timestamp=0, wait_for=[], branches=["child"]),
        agentic("child", "other", timestamp=5, wait_for=["root"], prefix_reset=True),
    ).replace('"input_length": 4', '"input_length": 400')
    calls = by_id(read(tmp_path, text))
    assert calls["join"].depends_on == ("root", "child")
    assert calls["join"].delay_ns == 5 * MS
    assert {call.session for call in calls.values()} == {"s"}


def test_agentic_version_2_tells_sending_from_ending(tmp_path):
    wait = {"request_id": "a", "trigger": "dispatch", "delay_ms": 5, "relation": "spawn"}
    end = {"request_id": "b", "trigger": "completion", "delay_ms": 1, "relation": "join"}
    rows = [
        agentic("a", play_id="p", not_before_ms=7, dependencies=[]),
        agentic("b", play_id="p", not_before_ms=0, dependencies=[wait]),
        agentic("c", play_id="p", dependencies=[end]),
    ]
    calls = by_id(read(tmp_path, jsonl(AGENTIC_HEADER, *rows)))
    assert (calls["b"].spawned_by, calls["b"].depends_on, calls["b"].delay_ns) == ("a", (), 5 * MS)
    assert (calls["c"].spawned_by, calls["c"].depends_on) == (None, ("b",))
    assert [calls[name].arrival_ns for name in "abc"] == [0, 5 * MS, 6 * MS]
    assert calls["a"].prompt == BlockTokens(np.array([1]), 4, 4)


def test_dynamo_infers_who_waited_for_whom(tmp_path):
    rows = [
        dynamo("next", 200, 10, "parent"),
        dynamo("first", 100, 10, "parent"),
        dynamo("child", 120, 10, "child", "parent"),
        {"schema": "dynamo.request.trace.v1", "event_type": "tool_end"},
        dynamo("last", 150, 10, "child", "parent"),
    ]
    workload = read(tmp_path, jsonl(*rows))
    calls = by_id(workload)
    assert calls["child"].depends_on == ("first",)
    assert calls["child"].delay_ns == 10 * MS
    assert calls["last"].depends_on == ("child",)
    assert calls["next"].depends_on == ("first", "last")
    assert calls["next"].delay_ns == 40 * MS
    assert {call.session for call in workload} == {"parent"}
    assert shares(calls["first"], calls["child"]) == 4
    assert workload.meta["other_events"] == {"tool_end": 1}


def test_mooncake_turns_wait_for_their_delay_or_the_time_between_stamps(tmp_path):
    first, second, third = read(tmp_path, MOONCAKE_SESSION)
    assert (second.depends_on, second.delay_ns) == ((first.id,), 70 * MS)
    assert (third.depends_on, third.delay_ns) == ((second.id,), 2_500_000)
    assert third.arrival_ns == 72_500_000
    assert shares(first, second) == 512
    assert len(second.prompt) == 700  # all of it


def test_mooncake_deltas_are_added_up(tmp_path):
    first, second = read(tmp_path, DELTAS)
    assert isinstance(second.prompt, JoinedTokens)
    assert second.prompt.parts[:2] == (first.prompt, first.output)
    assert len(second.prompt) == 16 + 4 + 8
    assert len(read(tmp_path, DELTAS, format="mooncake").requests[1].prompt) == 8


def test_mooncake_fields_have_other_names_in_dynamo(tmp_path):
    row = {"created_time": 3, "input_tokens": 9, "output_tokens": 2, "hash_ids": [4]}
    [request] = read(tmp_path, jsonl(row))
    assert (request.arrival_ns, len(request.prompt), len(request.output)) == (3 * MS, 9, 2)


def test_another_block_size_is_taken_when_asked_for(tmp_path):
    row = {"timestamp": 0, "input_length": 40, "output_length": 2, "hash_ids": [4, 5, 6]}
    [request] = read(tmp_path, jsonl(row), block_size=16)
    assert request.prompt == BlockTokens(np.array([4, 5, 6]), 16, 40)


def test_aiperf_rows_may_lack_hashes_or_have_one_for_an_empty_block(tmp_path):
    bare, hashed = read(tmp_path, AIPERF)
    assert bare.prompt == SyntheticTokens(0, 512)
    assert hashed.prompt == BlockTokens(np.array([1, 2]), 512, 1024)


def test_aiperf_turns_are_new_text_but_messages_are_all_of_it(tmp_path):
    deltas = read(
        tmp_path,
        jsonl(
            {"session_id": "s", "input_length": 300, "output_length": 40},
            {"session_id": "s", "delay": 2, "input_length": 150, "output_length": 20},
        ),
    )
    assert [len(r.prompt) for r in deltas] == [300, 490]
    assert deltas.requests[1].delay_ns == 2 * MS
    hello, thanks = {"role": "user", "content": "hello"}, {"role": "user", "content": "thanks"}
    wholes = read(
        tmp_path,
        jsonl(
            {"session_id": "s", "messages": [hello], "output_length": 4},
            {"session_id": "s", "messages": [hello, thanks], "output_length": 4},
        ),
    )
    assert wholes.requests[1].prompt == text_tokens("user: hello\nuser: thanks")
    assert wholes.requests[1].depends_on == (wholes.requests[0].id,)


def test_aiperf_texts_without_a_length_get_the_assumed_one(tmp_path):
    workload = read(tmp_path, jsonl({"texts": ["one", {"contents": ["two"]}], "image": "u"}))
    [request] = workload
    assert request.prompt == text_tokens("one\ntwo")
    assert len(request.output) == workload.meta["assumed_output_tokens"] == 256
    assert workload.meta["media_not_read"] == 1


def test_aiperf_system_turns_belong_to_the_next(tmp_path):
    turns = [{"role": "system", "text": "be kind"}, {"text": "a"}, {"text": "b", "delay": 9}]
    first, second = read(tmp_path, jsonl({"session_id": "x", "turns": turns}))
    assert first.prompt == text_tokens("be kind\na")
    assert (second.depends_on, second.delay_ns) == ((first.id,), 9 * MS)


def test_mt_bench_answers_are_the_references_where_there_are_any(tmp_path):
    row = {"question_id": 3, "turns": ["one", "two"], "reference": ["an answer"]}
    first, second = read(tmp_path, jsonl(row))
    assert first.output == text_tokens("an answer")
    assert len(second.output) == 256
    assert second.depends_on == (first.id,)


def test_a_folder_and_a_tar_are_read_as_one_trace(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    rows = LMCACHE.splitlines(keepends=True)
    (folder / "a.jsonl").write_text(rows[0])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(rows[1].encode()))
    (folder / "LICENSE").write_text("not a trace")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(folder, "logs")
    path = tmp_path / "logs.tar.zst"
    path.write_bytes(zstandard.compress(packed.getvalue()))
    alone = read(tmp_path, LMCACHE).requests
    assert read_trace(folder).requests == alone
    archive = read_trace(path)
    assert archive.requests == alone
    assert archive.name == "logs"
    assert archive.meta["sha256"] == hashlib.sha256(packed.getvalue()).hexdigest()
