"""A malformed trace is an error that names file, line and field, and what was expected."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import TraceError, read_trace, write_native
from traces.generate import generate

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
GOOD_CSV = f"{HEADER}\n2023-11-16 18:15:46.6805900,374,44\n"
GOOD_JSON = {"timestamp": 5, "input_length": 600, "output_length": 3, "hash_ids": [0, 1]}


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def changed(**fields: object) -> str:
    return jsonl(GOOD_JSON, {**GOOD_JSON, **fields})


def without(field: str) -> str:
    return jsonl(GOOD_JSON, {key: value for key, value in GOOD_JSON.items() if key != field})


def native(*rows: dict, **header: object) -> str:
    first = {"schema": "schedtwin.trace", "version": 1, "name": "n", "meta": {}, **header}
    return jsonl(first, *rows)


REQUEST = {"id": "a", "arrival_ns": 5, "prompt": [1, 2], "output": {"key": 1, "length": 3}}

# text, line, field, part of the message
BAD_ROWS = {
    "csv: two fields": (GOOD_CSV + "2023-11-16 18:15:47.0,374\n", 3, None, "2 fields"),
    "csv: no time": (GOOD_CSV + "yesterday,374,44\n", 3, "TIMESTAMP", "a time such as"),
    "csv: no such day": (GOOD_CSV + "2023-02-30 18:15:47.0,1,1\n", 3, "TIMESTAMP", "a time"),
    "csv: no such hour": (GOOD_CSV + "2023-12-16 24:15:47.0,1,1\n", 3, "TIMESTAMP", "a time"),
    "csv: negative": (
        GOOD_CSV + "2023-11-16 18:15:47.0,-3,4\n",
        3,
        "ContextTokens",
        "found '-3'; expected an integer in 1..",
    ),
    "csv: no output": (GOOD_CSV + "2023-11-16 18:15:47.0,3,0\n", 3, "GeneratedTokens", "'0'"),
    "csv: half a token": (GOOD_CSV + "2023-11-16 18:15:47.0,3,1.5\n", 3, "GeneratedTokens", "1.5"),
    "csv: back in time": (
        GOOD_CSV + "2023-11-16 18:15:46.6805899,3,1\n",
        3,
        "TIMESTAMP",
        "earlier than the row before",
    ),
    "csv: a Mooncake row": (GOOD_CSV + jsonl(GOOD_JSON), 3, None, "reads like mooncake"),
    "json: cut off": (jsonl(GOOD_JSON) + '{"timestamp": 7, "inp\n', 2, None, "well-formed JSON"),
    "json: not an object": (jsonl(GOOD_JSON) + "[1, 2]\n", 2, None, "a JSON object"),
    "json: nan": (jsonl(GOOD_JSON) + '{"timestamp": NaN}\n', 2, None, "NaN is not JSON"),
    "json: an Azure row": (
        jsonl(GOOD_JSON) + "2023-11-16 18:15:47.0,3,1\n",
        2,
        None,
        "reads like azure",
    ),
    "json: no time": (without("timestamp"), 2, "timestamp", "no such field"),
    "json: no length": (without("input_length"), 2, "input_length", "no such field"),
    "json: no hashes": (without("hash_ids"), 2, "hash_ids", "no such field"),
    "json: text for a time": (changed(timestamp="5"), 2, "timestamp", "milliseconds"),
    "json: true for a length": (changed(input_length=True), 2, "input_length", "an integer in 1.."),
    "json: float length": (changed(output_length=3.0), 2, "output_length", "an integer in 1.."),
    "json: empty prompt": (changed(input_length=0, hash_ids=[]), 2, "input_length", "found 0"),
    "json: no output": (changed(output_length=0), 2, "output_length", "found 0"),
    "json: negative time": (changed(timestamp=-1), 2, "timestamp", "found -1"),
    "json: too few hashes": (
        changed(hash_ids=[0]),
        2,
        "hash_ids",
        "found 1 hashes for 600 tokens; expected 2: one per 512 tokens",
    ),
    "json: negative hash": (changed(hash_ids=[0, -4]), 2, "hash_ids", "-4"),
    "json: huge hash": (changed(hash_ids=[0, 2**63]), 2, "hash_ids", "in the list"),
    "json: text hash": (changed(hash_ids=[0, "1"]), 2, "hash_ids", "'1' in the list"),
    "json: back in time": (changed(timestamp=4), 2, "timestamp", "earlier than the row before"),
    "native: unknown field": (
        native(REQUEST, {**REQUEST, "id": "b", "prio": 1}),
        3,
        "prio",
        "abort_ns",
    ),
    "native: no prompt": (native(REQUEST, {"id": "b", "arrival_ns": 1}), 3, "output", "no such"),
    "native: same id": (native(REQUEST, REQUEST), 3, "id", "'a' a second time"),
    "native: back in time": (
        native(REQUEST, {**REQUEST, "id": "b", "arrival_ns": 4}),
        3,
        "arrival_ns",
        "found 4, earlier",
    ),
    "native: odd tokens": (
        native(REQUEST, {**REQUEST, "id": "b", "prompt": {"length": 3, "text": ""}}),
        3,
        "prompt",
        "'length', 'text'",
    ),
    "native: blocks do not fit": (
        native(
            REQUEST,
            {**REQUEST, "id": "b", "prompt": {"hash_ids": [1], "block_size": 2, "length": 3}},
        ),
        3,
        "prompt",
        "need 2 hash ids",
    ),
    "native: gone before it came": (
        native(REQUEST, {**REQUEST, "id": "b", "abort_ns": 4}),
        3,
        "abort_ns",
        "found 4",
    ),
    "native: word for a flag": (
        native(REQUEST, {**REQUEST, "id": "b", "ignore_eos": "no"}),
        3,
        "ignore_eos",
        "true or false",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, case):
    text, line, field, message = BAD_ROWS[case]
    path = tmp_path / "bad.trace"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert (caught.value.path, caught.value.line, caught.value.field) == (str(path), line, field)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_can_be_left_out_and_is_counted(tmp_path, case):
    text, line, _, message = BAD_ROWS[case]
    path = tmp_path / "bad.trace"
    path.write_text(text)
    workload = read_trace(path, skip_bad_rows=True)
    assert len(workload) == 1
    assert workload.meta["skipped_rows"] == 1
    [said] = workload.meta["skipped_messages"]
    assert f"line {line}" in said
    assert message in said


def test_rows_after_a_bad_one_keep_their_number(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("{oops\n" + jsonl(GOOD_JSON))
    assert [r.id for r in read_trace(path, skip_bad_rows=True)] == ["r000001"]


def test_only_the_first_messages_are_kept(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(jsonl(GOOD_JSON) + "nonsense\n" * 50)
    meta = read_trace(path, skip_bad_rows=True).meta
    assert meta["skipped_rows"] == 50
    assert len(meta["skipped_messages"]) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\n\n", "an empty file"),
        (gzip.compress(b"", mtime=0), "an empty file"),
        (HEADER.encode(), "an empty trace"),
        (native().encode(), "an empty trace"),
        (b"a,b,c\n1,2,3\n", "no known trace format in 'a,b,c'; expected one of azure, "),
        (b'{"a": 1}\n', "mooncake, native, "),
        (b"{broken\n", "line 1: found '{broken'"),
        (b"PK\x03\x04\x00\x00", "a NUL character"),
        (b"\x28\xb5\x2f\xfd\x04\x88", "in the middle of its zstd data"),
        (b"\x80\x02\x04\x88", "binary data"),
        (b"arrived_at,num_prefill_tokens\n", "no known trace format"),
        (b"2023-11-16 18:15:46.68,374,44\n", f"expected the header {HEADER}"),
        (native(REQUEST, version=2).encode(), "found 2; expected version 1"),
        (jsonl(REQUEST).encode(), "'schedtwin.trace' in the header line"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path, content, message):
    path = tmp_path / "t"
    path.write_bytes(content)
    for skip in (False, True):
        with pytest.raises(TraceError) as caught:
            read_trace(path, skip_bad_rows=skip)
        assert message in str(caught.value)
        assert str(path) in str(caught.value)


def test_nothing_but_bad_rows_is_an_empty_trace(tmp_path):
    path = tmp_path / "t"
    path.write_text(f"{HEADER}\nx,1,1\n")
    with pytest.raises(TraceError, match=r"1 bad rows left out; the first: .*line 2"):
        read_trace(path, skip_bad_rows=True)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
def test_a_truncated_archive_is_refused(tmp_path, keep):
    path = tmp_path / "t.jsonl.gz"
    write_native(generate(n=300), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    for skip in (False, True):
        with pytest.raises(
            TraceError, match=r"in the middle of its gzip data(, after line [1-9]\d*)?;"
        ):
            read_trace(path, skip_bad_rows=skip)


def test_of_a_folder_the_file_that_fails_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(jsonl(GOOD_JSON))
    bad = tmp_path / "deep" / "b.jsonl.gz"
    bad.parent.mkdir()
    bad.write_bytes(gzip.compress(jsonl(GOOD_JSON).encode())[:40])
    with pytest.raises(TraceError, match=f"^{bad}: found the end of the file in the middle"):
        read_trace(tmp_path)
    bad.write_bytes(b"\x1f\x8b" + bytes(20))
    with pytest.raises(TraceError, match=f"^{bad}: found damaged gzip data"):
        read_trace(tmp_path)
    unreadable = Path("/proc/self/mem")
    if unreadable.exists():  # nothing can be read there, whoever asks
        bad.unlink()
        bad.symlink_to(unreadable)
        with pytest.raises(TraceError, match=rf"^{bad}: found an unreadable file \(Input/output"):
            read_trace(tmp_path)


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    write_native(generate(n=300), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(TraceError):
        read_trace(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(TraceError, match="no such file; expected a trace file"):
        read_trace(tmp_path / "nothing.csv")
    with pytest.raises(TraceError, match="found a folder; expected a trace file"):
        read_trace(tmp_path)


WHOLE = [GOOD_CSV, jsonl(GOOD_JSON, GOOD_JSON), native(REQUEST)]


@settings(deadline=None, max_examples=300)
@given(
    text=st.sampled_from(WHOLE),
    cut=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    patch=st.binary(max_size=8) | st.sampled_from([b"1e999", b"9" * 5_000, b"[" * 5_000, b"null"]),
    zipped=st.booleans(),
    skip=st.booleans(),
)
def test_whatever_a_file_holds_it_is_a_trace_or_a_trace_error(
    tmp_path_factory, text, cut, patch, zipped, skip
):
    content = gzip.compress(text.encode(), mtime=0) if zipped else text.encode()
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content[: min(cut)] + patch + content[max(cut) :])
    try:
        workload = read_trace(path, skip_bad_rows=skip)
    except TraceError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert len(workload) >= 1
