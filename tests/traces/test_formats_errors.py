"""A wrong row, in any format, is named by file, line and field, with what was expected there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.format_examples import (
    AGENTIC_HEADER,
    AIPERF,
    APPLIED,
    BAILIAN,
    BURST,
    EXAMPLES,
    FLAT,
    LMCACHE,
    MOONCAKE_SESSION,
    NANOFLOW,
    SUB_REQUESTS,
    VIDUR,
    agentic,
    dynamo,
    jsonl,
)
from traces import TraceError, read_trace
from traces.readers.registry import FORMATS


def changed(text: str, line: int = 2, /, **fields: object) -> str:
    """JSONL with some fields of one line replaced, or left out if they are `...`."""
    lines = text.splitlines()
    row = {**json.loads(lines[line - 1]), **fields}
    lines[line - 1] = json.dumps({key: value for key, value in row.items() if value is not ...})
    return "\n".join(lines) + "\n"


AGENTIC = jsonl(AGENTIC_HEADER, agentic("a", play_id="p", not_before_ms=0, dependencies=[]))
WAITS = [{"request_id": "b", "trigger": "completion"}]
DYNAMO = jsonl(dynamo("a", 10, 5), dynamo("b", 20, 5))
REPLAY = {"trace_block_size": 4, "input_length": 9, "input_sequence_hashes": [1, 2]}
SINGLE = jsonl({"text": "one"}, {"text": "two"})
TURNS = jsonl({"turns": [{"text": "a"}]}, {"turns": [{"text": "a"}, {"text": "b"}]})
QUESTIONS = jsonl({"question_id": 1, "turns": ["a"]}, {"question_id": 2, "turns": ["a", "b"]})
CHATS = jsonl(
    {"conversations": [{"from": "human", "value": "a"}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
)

# text, line, field, part of the message
BAD = {
    "bailian: unknown parent": (
        changed(BAILIAN, parent_chat_id=8),
        2,
        "parent_chat_id",
        "found 8, a chat that is not there; expected the chat_id of a row before",
    ),
    "bailian: before its parent": (changed(BAILIAN, timestamp=61), 2, "timestamp", "its parent 7"),
    "bailian: hashes": (
        changed(BAILIAN, hash_ids=[5, 6, 8]),
        2,
        "hash_ids",
        "3 hashes for 64 tokens; expected 4: one per 16 tokens",
    ),
    "bailian: same chat": (changed(BAILIAN, chat_id=7), 2, "chat_id", "a second time"),
    "bailian: no length": (changed(BAILIAN, output_length=...), 2, "output_length", "no such"),
    "bailian: negative length": (changed(BAILIAN, input_length=-4), 2, "input_length", "found -4"),
    "burstgpt: half a token": (
        BURST.replace("417", "41.7"),
        4,
        "Request tokens",
        "found '41.7'; expected an integer in 1..",
    ),
    "burstgpt: back in time": (BURST.replace("118,", "44,"), 4, "Timestamp", "earlier"),
    "burstgpt: a field too many": (BURST + "1,2,3\n", 5, None, "found 3 fields"),
    "burstgpt: a JSON row": (BURST + BAILIAN, 5, None, "reads like bailian"),
    "vidur: negative": (VIDUR.replace("396", "-396"), 3, "num_prefill_tokens", "found '-396'"),
    "vidur: no number": (VIDUR.replace("4.31", "x4.31"), 3, "arrived_at", "seconds"),
    "vidur: not a time": (VIDUR.replace("4.314579", "nan"), 3, "arrived_at", "0 or more"),
    "nanoflow: no output": (NANOFLOW.replace("513", "0"), 3, "GeneratedTokens", "found '0'"),
    "llmservingsim: ids": (
        changed(FLAT, input_tok_ids=[1]),
        2,
        "input_tok_ids",
        "found 1 ids; expected 5, as input_toks says",
    ),
    "llmservingsim: tool": (
        SUB_REQUESTS + changed(SUB_REQUESTS, 1, session_id="b").replace("500", "-500"),
        2,
        "sub_requests[0].tool_duration_ns",
        "found -500",
    ),
    "llmservingsim: same session": (SUB_REQUESTS * 2, 2, "session_id", "'a' a second time"),
    "llmservingsim: back in time": (changed(FLAT, arrival_time_ns=3), 2, "arrival_time_ns", "3, e"),
    "lmcache: no session": (changed(LMCACHE, session_id=""), 2, "session_id", "a string"),
    "lmcache: no text": (changed(LMCACHE, input=3), 2, "input", "found 3; expected a text"),
    "lmcache: negative": (changed(LMCACHE, timestamp=-1), 2, "timestamp", "microseconds"),
    "applied-compute: lists": (
        APPLIED + changed(APPLIED, 1, tool_call_latency=[1]),
        2,
        "tool_call_latency",
        "found 1 values; expected a list of 2, as num_turns says",
    ),
    "applied-compute: no answer": (
        APPLIED + changed(APPLIED, 1, assistant_response_length=[4, 0]),
        2,
        "assistant_response_length[1]",
        "found 0",
    ),
    "agentic: unknown": (
        AGENTIC + jsonl(agentic("c", play_id="p", dependencies=WAITS)),
        3,
        "request_id",
        "found 'b'; expected the request_id of another row",
    ),
    "agentic: for itself": (
        AGENTIC + jsonl(agentic("b", play_id="p", dependencies=WAITS)),
        3,
        None,
        "in the end wait for it; expected no circle of waits",
    ),
    "agentic: same id": (
        AGENTIC + jsonl(agentic("a", timestamp=1, wait_for=[])),
        3,
        "request_id",
        "a ",
    ),
    "agentic: trigger": (
        AGENTIC + jsonl(agentic("c", dependencies=[{"request_id": "a", "trigger": "soon"}])),
        3,
        "dependencies.trigger",
        "'completion' or 'dispatch'",
    ),
    "agentic: blocks": (
        AGENTIC + jsonl(agentic("c", not_before_ms=1, dependencies=[], input_length=5)),
        3,
        "hash_ids",
        "1 hashes for 5 tokens; expected 2: one per 4 tokens",
    ),
    "dynamo: blocks": (
        changed(
            DYNAMO, request={**json.loads(DYNAMO.splitlines()[1])["request"], "replay": REPLAY}
        ),
        2,
        "request.replay.input_sequence_hashes",
        "2 hashes for 9 tokens; expected 3",
    ),
    "dynamo: another schema": (changed(DYNAMO, schema="dynamo.v9"), 2, "schema", "trace.v1"),
    "dynamo: no request": (changed(DYNAMO, request=None), 2, "request", "a JSON object"),
    "dynamo: same id": (DYNAMO + jsonl(dynamo("a", 30, 1)), 3, "request_id", "'a' again"),
    "mooncake: session back in time": (
        changed(MOONCAKE_SESSION, timestamp=0).replace('"timestamp": 0,', '"timestamp": 1,', 1),
        2,
        "timestamp",
        "back in time",
    ),
    "mooncake: negative delay": (changed(MOONCAKE_SESSION, delay=-1), 2, "delay", "found -1"),
    "mooncake: no stamp": (
        changed(MOONCAKE_SESSION, session_id="t", timestamp=...),
        2,
        "timestamp",
        "no such field",
    ),
    "aiperf: two prompts": (
        AIPERF + jsonl({"timestamp": 130, "input_length": 5, "text_input": "a"}),
        3,
        None,
        "exactly one of input_length, text_input, messages, payload",
    ),
    "aiperf: hashes": (
        changed(AIPERF, hash_ids=[1]),
        2,
        "hash_ids",
        "1 hashes for 1024 tokens; expected 2",
    ),
    "aiperf: back in time": (changed(AIPERF, 1, timestamp=130), 2, "timestamp", "earlier"),
    "aiperf: payload": (
        AIPERF + jsonl({"timestamp": 130, "payload": {"x": 1}}),
        3,
        "payload",
        "prompt or messages",
    ),
    "single-turn: no text": (changed(SINGLE, text=7), 2, "text", "found 7; expected a text"),
    "multi-turn: no turns": (changed(TURNS, turns=[]), 2, "turns", "a list of JSON objects"),
    "mt-bench: no text": (changed(QUESTIONS, turns=["a", 4]), 2, "turns[1]", "a text"),
    "sharegpt: no question": (
        changed(CHATS, conversations=[{"from": "gpt", "value": "b"}]),
        2,
        "conversations",
        "no question",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, case):
    text, line, field, message = BAD[case]
    path = tmp_path / "bad.trace"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert (caught.value.path, caught.value.line, caught.value.field) == (str(path), line, field)
    assert message in str(caught.value)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_can_be_left_out_and_is_counted(tmp_path, case):
    text, line, _, message = BAD[case]
    path = tmp_path / "bad.trace"
    path.write_text(text)
    workload = read_trace(path, skip_bad_rows=True)
    assert len(workload) >= 1
    said = workload.meta["skipped_messages"]
    assert isinstance(said, list)
    assert f"line {line}" in said[0]
    assert message in said[0]


def test_what_waits_for_a_row_left_out_is_left_out_too(tmp_path):
    rows = [
        agentic("a", timestamp=0, wait_for=[]),
        agentic("b", timestamp=1, wait_for=["a", "gone"]),
        agentic("c", timestamp=2, wait_for=["b"]),
    ]
    path = tmp_path / "t"
    path.write_text(jsonl(*rows))
    workload = read_trace(path, skip_bad_rows=True)
    assert [r.id for r in workload] == ["a"]
    assert workload.meta["skipped_rows"] == 2


def test_a_header_with_the_wrong_block_size_is_refused(tmp_path):
    path = tmp_path / "t"
    path.write_text(AGENTIC)
    with pytest.raises(TraceError, match="found 4; expected 16, the block size asked for"):
        read_trace(path, block_size=16)
    path.write_text(DYNAMO)
    with pytest.raises(TraceError, match="found 4; expected 16, the block size asked for"):
        read_trace(path, block_size=16)
    path.write_text(jsonl(dynamo("c", 1, 1)) + DYNAMO.replace('_size": 4', '_size": 3'))
    with pytest.raises(TraceError, match="found 4 and 3 in one trace; expected one block size"):
        read_trace(path)


def test_a_json_list_that_is_cut_off_says_where(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('[\n {"input": "a", "output_length": 3},\n {"input": "b"')
    with pytest.raises(TraceError, match=r"line 3: .*expected one well-formed JSON list"):
        read_trace(path)


def test_a_wrong_object_of_a_json_list_is_named_by_its_place(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"input": "a", "output_length": 3}, {"input": "b"}]))
    with pytest.raises(TraceError, match=r"field '\[1\].output_length': found no such field"):
        read_trace(path)
    assert len(read_trace(path, skip_bad_rows=True)) == 1


def test_files_of_a_folder_are_named_in_errors(tmp_path):
    (tmp_path / "a.jsonl").write_text(LMCACHE)
    (tmp_path / "b.jsonl").write_text(BAILIAN)
    with pytest.raises(TraceError) as caught:
        read_trace(tmp_path)
    assert (Path(caught.value.path), caught.value.line) == (tmp_path / "b.jsonl", 1)
    assert "reads like bailian" in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(
    text=st.sampled_from(list(EXAMPLES.values())),
    cut=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    patch=st.binary(max_size=6) | st.sampled_from([b"1e999", b"[" * 3_000, b"null", b"{}", b"-1"]),
    skip=st.booleans(),
    name=st.sampled_from([None, *FORMATS]),
)
def test_whatever_a_file_holds_it_is_a_trace_or_a_trace_error(
    tmp_path_factory, text, cut, patch, skip, name
):
    content = text.encode()
    path = tmp_path_factory.getbasetemp() / "fuzzed-formats"
    path.write_bytes(content[: min(cut)] + patch + content[max(cut) :])
    try:
        workload = read_trace(path, skip_bad_rows=skip, format=name)
    except TraceError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert len(workload) >= 1
