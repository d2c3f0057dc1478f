"""What is written is what is read, depends on the rows alone, and survives what ends a process."""

import errno
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.records import RecordError, RunWriter, load_run
from traces.records.parts import to_arrow, write_table
from traces.records.schema import RECORDS, TABLES, Column, Table

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full: nothing acts as full disk")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def steps_of(step_of, numbers):
    modes = ("extend", "decode", "mixed", "empty")
    return [step_of(iteration=i, mode=modes[i // 3 % 4], launch_ns=i) for i in numbers]


def test_rows_read_back_as_written(tmp_path, request_of, step_of):
    far = 2**62 + 1  # a float could not hold it
    with RunWriter(tmp_path / "run", {"seed": 3}) as writer:
        writer.request(request_of(id="a", tenant="t", finish_ns=far))
        writer.request(request_of(id="b", first_token_ns=None, finish_reason=None, priority=-2))
        writer.steps.append(step_of(mode="mixed", new_token_ratio=0.1))
    run = load_run(tmp_path / "run")
    assert run.status == "complete"
    assert run.manifest["seed"] == 3
    assert run.manifest["tables"] == {"requests": 2, "steps": 1}
    assert run.requests["finish_ns"].tolist() == [far, 50]
    assert run.requests["first_token_ns"].isna().tolist() == [False, True]
    assert run.requests["first_token_ns"].dtype == "Int64"
    assert run.requests["arrival_ns"].dtype == "int64"
    assert run.requests["priority"].dropna().tolist() == [-2]
    assert run.steps["mode"].tolist() == ["mixed"]
    assert run.steps["new_token_ratio"].tolist() == [0.1]
    assert list(run.steps.columns) == list(TABLES["steps"].names)


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 30))
def test_a_table_depends_on_its_rows_not_on_its_chunks(cuts, row_group):
    kinds = ("x", "y", "z")
    table = Table(
        "t",
        (
            Column("i", "int64", ""),
            Column("kind", kinds, "", nullable=True),
            Column("text", "str", "", nullable=True),
            Column("times", "list<int64>", ""),
        ),
        row_group,
    )
    rows = [
        (i, (*kinds, None)[i // 5 % 4], None if i % 7 == 0 else f"t{i % 3}", list(range(i % 4)))
        for i in range(40)
    ]
    bounds = sorted({0, 40, *cuts})
    chunks = [to_arrow(table, rows[a:b]) for a, b in pairwise(bounds)]
    with tempfile.TemporaryDirectory() as name:
        whole, cut = Path(name) / "whole", Path(name) / "cut"
        whole.mkdir()
        cut.mkdir()
        assert write_table(whole, table, iter([to_arrow(table, rows)])) == 40
        assert write_table(cut, table, iter(chunks)) == 40
        assert digests(whole) == digests(cut)
        assert pq.read_table(cut / "t.parquet").to_pylist() == [
            dict(zip(table.names, row, strict=True)) for row in rows
        ]


def test_a_run_shows_not_where_it_was_flushed(tmp_path, request_of, step_of):
    for name, every in (("never", 10**9), ("often", 7), ("seldom", 33)):
        with RunWriter(tmp_path / name, {"x": 0.1}, RECORDS) as writer:
            for i, row in enumerate(steps_of(step_of, range(100))):
                writer.steps.append(row)
                writer.decision((i, "item", i, f"r{i}", None, "decode", 1, 2, 1, 5, False))
                writer.decision((i, "receive", i, None, *[None] * 7))
                writer.request((*request_of(id=f"r{i}"), [i, i + 1]))
                writer.tokens(f"r{i}", np.arange(i, dtype=np.int32), [1, 2])
                if i % every == every - 1:
                    writer.flush()
    assert digests(tmp_path / "never") == digests(tmp_path / "often")
    assert digests(tmp_path / "never") == digests(tmp_path / "seldom")
    assert sorted(digests(tmp_path / "often")) == [
        "decisions.parquet",
        "manifest.json",
        "requests.parquet",
        "steps.parquet",
        "tokens.parquet",
    ]


def test_maybe_flush_waits_until_enough_is_held(tmp_path, step_of, monkeypatch):
    monkeypatch.setattr("traces.records.writer.FLUSH_ROWS", 10)
    writer = RunWriter(tmp_path / "run", {})
    append = writer.steps.append
    for row in steps_of(step_of, range(9)):
        append(row)
    writer.maybe_flush()
    assert len(writer.steps) == 9
    append(step_of(iteration=9))
    writer.maybe_flush()
    assert len(writer.steps) == 0
    append(step_of(iteration=10))  # the list is still the writer's
    assert writer.close().steps["iteration"].tolist() == list(range(11))


def test_long_prompts_are_flushed_before_rows_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr("traces.records.writer.FLUSH_TOKENS", 1000)
    writer = RunWriter(tmp_path / "run", {}, ("decisions",))
    writer.tokens("a", [1] * 999, [])
    writer.maybe_flush()
    assert not list((tmp_path / "run").glob("parts/*"))
    writer.tokens("b", [1], [2])
    writer.maybe_flush()
    assert [file.name for file in (tmp_path / "run" / "parts").iterdir()] == ["tokens-000000.arrow"]


def test_what_was_flushed_survives_a_kill(tmp_path):
    code = f"""
import os, signal
from traces.records import RunWriter
from traces.records.schema import TABLES
writer = RunWriter({str(tmp_path / "run")!r}, {{}})
for i in range(25):
    writer.steps.append((i, "decode", *[0] * (len(TABLES["steps"].names) - 2)))
    if i % 10 == 9:
        writer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL
    run = load_run(tmp_path / "run")
    assert run.status == "running"
    assert run.steps["iteration"].tolist() == list(range(20))
    assert len(run.requests) == 0
    assert "running" in str(run)


@needs_full
def test_a_full_disk_while_flushing_keeps_what_was_flushed(tmp_path, step_of):
    folder = tmp_path / "run"
    writer = RunWriter(folder, {})
    writer.steps.extend(steps_of(step_of, range(10)))
    writer.flush()
    (folder / "parts" / "steps-000001.tmp").symlink_to(FULL)
    writer.steps.extend(steps_of(step_of, range(10, 20)))
    with pytest.raises(RecordError, match=r"steps.*No space left.*10 of steps.*space") as raised:
        writer.flush()
    assert raised.value.__cause__.errno == errno.ENOSPC
    assert load_run(folder).steps["iteration"].tolist() == list(range(10))
    # Once there is space again nothing is lost: the rows were kept.
    assert writer.close().steps["iteration"].tolist() == list(range(20))


@needs_full
def test_a_full_disk_while_merging_keeps_the_parts(tmp_path, step_of, request_of):
    folder = tmp_path / "run"
    writer = RunWriter(folder, {})
    writer.request(request_of())
    writer.steps.extend(steps_of(step_of, range(10)))
    writer.flush()
    writer.steps.extend(steps_of(step_of, range(10, 15)))
    (folder / "steps.tmp").symlink_to(FULL)
    with pytest.raises(RecordError, match=r"steps\.parquet.*15 of steps"):
        writer.close()
    run = load_run(folder)
    assert run.status.startswith("failed: cannot write")
    assert run.steps["iteration"].tolist() == list(range(15))
    assert len(run.requests) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "interrupted"), (ValueError("why"), "failed: ValueError: why")],
)
def test_an_exception_closes_the_run_with_what_it_has(tmp_path, step_of, error, status):
    def world():
        with RunWriter(tmp_path / "run", {}) as writer:
            writer.steps.append(step_of())
            raise error

    with pytest.raises(type(error)):
        world()
    run = load_run(tmp_path / "run")
    assert run.status == status
    assert len(run.steps) == 1


def test_only_a_run_is_replaced_and_only_on_purpose(tmp_path, step_of):
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    (other / "manifest.json").write_text('{"name": "some web app"}')
    for overwrite in (False, True):
        with pytest.raises(RecordError, match="no run, so it is left alone"):
            RunWriter(other, {}, overwrite=overwrite)
    assert (other / "notes.txt").read_text() == "mine"

    folder = tmp_path / "run"
    with RunWriter(folder, {}) as writer:
        writer.steps.extend(steps_of(step_of, range(5)))
    with pytest.raises(RecordError, match=r"already holds a run.*overwrite"):
        RunWriter(folder, {})
    assert len(load_run(folder).steps) == 5
    RunWriter(folder, {}, overwrite=True).close()
    assert len(load_run(folder).steps) == 0


def test_without_a_folder_the_run_is_the_same(tmp_path, make_run):
    records = ("requests", "steps", "tokens")
    on_disk, in_memory = make_run(tmp_path / "run", records=records), make_run(records=records)
    assert in_memory.path is None
    assert in_memory.manifest == on_disk.manifest == load_run(tmp_path / "run").manifest
    for table in ("requests", "steps"):
        assert in_memory.arrow(table).combine_chunks() == on_disk.arrow(table).combine_chunks()
    assert in_memory.summary() == on_disk.summary()


def test_closing_twice_is_closing_once(tmp_path):
    writer = RunWriter(tmp_path / "run", {})
    assert writer.close() is writer.close("interrupted")
    assert load_run(tmp_path / "run").status == "complete"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "decoding"}, r"steps, column mode: 'decoding' is none of extend, decode"),
        ({"launch_ns": None}, r"steps, column launch_ns has to be int64"),
        ({"launch_ns": 2**63}, r"steps, column launch_ns has to be int64"),
        ({"waiting": "many"}, r"steps, column waiting has to be int64"),
    ],
)
def test_a_wrong_value_is_named_with_its_column(step_of, change, message):
    writer = RunWriter(None, {})
    writer.steps.append(step_of(**change))
    with pytest.raises(RecordError, match=message):
        writer.flush()


def test_a_row_of_the_wrong_width_is_named():
    writer = RunWriter(None, {})
    writer.request(("r0", 1))
    with pytest.raises(RecordError, match="requests: a row has 2 values, it needs 16"):
        writer.flush()


def test_a_null_where_none_may_be_is_an_error(request_of):
    writer = RunWriter(None, {})
    writer.request(request_of(id=None))
    with pytest.raises(RecordError, match="column id has to be str: a row has None"):
        writer.flush()


def test_rows_nobody_asked_for_are_dropped(step_of):
    writer = RunWriter(None, {}, ())
    writer.steps.append(step_of())
    run = writer.close()
    assert not run.has("steps")
    assert writer.steps == []


def test_tables_are_those_of_the_records(tmp_path):
    run = RunWriter(tmp_path / "a", {}, ("tokens",)).close()
    assert run.manifest["records"] == ["requests", "tokens"]
    assert "token_times_ns" in run.requests
    with pytest.raises(RecordError, match=r"no table steps: .*requests,tokens; `steps`"):
        _ = run.steps
    with pytest.raises(RecordError, match=r"no table tokens: .*`decisions`"):
        _ = run.tokens
    run = RunWriter(tmp_path / "b", {}, ("decisions",)).close()
    said = ["ignore_eos", "extra_key", "routing_key", "lora_id"]
    assert list(run.tokens.columns) == ["request_id", "prompt", "output", *said]
    assert "token_times_ns" not in run.requests


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"a": {"b": [0.0, float("nan")]}}, r"manifest\.a\.b\[1\] is nan"),
        ({"a": object()}, r"manifest\.a is a object"),
        ({"a": {1: 2}}, r"manifest\.a has the key 1"),
        ({"status": "fine"}, "'status' is kept by the writer"),
    ],
)
def test_a_manifest_holds_only_what_reads_back(manifest, message):
    with pytest.raises(RecordError, match=message):
        RunWriter(None, manifest)


def test_a_manifest_is_sorted_and_exact(tmp_path):
    given = {"z": np.float64(0.1), "a": np.int64(2**60), "m": {"é": [True, None]}}
    RunWriter(tmp_path / "run", given).close(counts={"steps": 0})
    text = (tmp_path / "run" / "manifest.json").read_text(encoding="utf-8")
    read = json.loads(text)
    assert list(read) == sorted(read)
    assert (read["z"], read["a"], read["m"]) == (0.1, 2**60, {"é": [True, None]})
    assert read["counts"] == {"steps": 0}


def test_wrong_arguments_say_what_would_be_right():
    with pytest.raises(RecordError, match="unknown records step: known are requests, steps"):
        RunWriter(None, {}, ("step",))
    with pytest.raises(RecordError, match="has to be complete, interrupted or failed"):
        RunWriter(None, {}).close("done")


class Alike:
    """A block of steps that differ in their number and in one time."""

    def __init__(self, first, count):
        self.first, self.count = first, count

    def __len__(self):
        return self.count

    @staticmethod
    def columns(blocks):
        numbers = np.concatenate([np.arange(b.first, b.first + b.count) for b in blocks])
        others = [np.zeros(len(numbers), np.int64)] * 22
        ratio = TABLES["steps"].names.index("new_token_ratio")
        others[ratio - 3] = np.full(len(numbers), 0.25)
        return [numbers, "mixed", numbers * 10, *others]

    def rows(self, step_of):
        numbers = range(self.first, self.first + self.count)
        given = {"mode": "mixed", "new_token_ratio": 0.25}
        return [step_of(iteration=i, launch_ns=10 * i, **given) for i in numbers]


def step_row(**given):
    row = dict.fromkeys(TABLES["steps"].names, 0) | {"mode": "decode"} | given
    return tuple(row.values())


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 20))
def test_blocks_read_back_as_the_rows_they_stand_for(counts, every):
    """A count is a block of so many rows, none a single row."""
    whole, plain = RunWriter(None, {}), RunWriter(None, {})
    at = 0
    for i, count in enumerate(counts):
        if count:
            whole.many_steps(Alike(at, count))
            plain.steps.extend(Alike(at, count).rows(step_row))
        else:
            for writer in (whole, plain):
                writer.steps.append(step_row(iteration=at, mode="extend"))
        at += max(count, 1)
        if i % every == every - 1:
            whole.flush()
    one, other = (writer.close().arrow("steps").combine_chunks() for writer in (whole, plain))
    assert one.schema == other.schema
    assert one.to_pylist() == other.to_pylist()


def test_a_wrong_value_between_blocks_is_named_with_its_column(step_of):
    writer = RunWriter(None, {})
    writer.many_steps(Alike(0, 3))
    writer.steps.append(step_of(waiting=None))
    with pytest.raises(RecordError, match=r"steps, column waiting has to be int64"):
        writer.flush()


def test_an_enumeration_may_be_given_as_its_member(step_of, request_of):
    class Kind(StrEnum):
        MIXED = "mixed"
        STOP = "stop"

    writer = RunWriter(None, {})
    writer.steps.append(step_of(mode=Kind.MIXED))
    writer.request(request_of(finish_reason=Kind.STOP))
    run = writer.close()
    assert run.steps["mode"].tolist() == ["mixed"]
    assert run.requests["finish_reason"].tolist() == ["stop"]
