"""Reading a run: what is wrong with one is said, and its files hold the types they promise."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traces.records import RecordError, RunWriter, load_run


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(RecordError, match="no such run folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RecordError, match=r"is no run: it has no manifest\.json"):
        load_run(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RecordError, match="cannot be read as JSON"):
        load_run(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(RecordError, match="is no run"):
        load_run(tmp_path)


def test_a_damaged_table_is_named(tmp_path, make_run):
    make_run(tmp_path / "run", n=5)
    (tmp_path / "run" / "requests.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(RecordError, match=r"requests\.parquet .*cannot be read"):
        _ = load_run(tmp_path / "run").requests
    (tmp_path / "run" / "steps.parquet").unlink()
    with pytest.raises(RecordError, match=r"steps\.parquet is missing"):
        _ = load_run(tmp_path / "run").steps


def test_damage_within_a_table_is_said_in_one_line(tmp_path, make_run):
    make_run(tmp_path / "run", n=50)
    file = tmp_path / "run" / "requests.parquet"
    content = bytearray(file.read_bytes())
    content[100:600] = b"U" * 500
    file.write_bytes(content)
    with pytest.raises(RecordError, match=r"requests\.parquet .*cannot be read: .*") as caught:
        _ = load_run(tmp_path / "run").requests
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("config", "x", "a mapping"),
        ("resolved", [], "a mapping"),
        ("kv_capacity_tokens", "many", "a whole number"),
        ("records", 3, "a list"),
        ("status", None, "lacks `records` or `status`"),
    ],
)
def test_a_manifest_that_was_meddled_with_is_named(tmp_path, make_run, key, value, wanted):
    make_run(tmp_path / "run", n=5)
    file = tmp_path / "run" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest[key] = value
    if value is None:
        del manifest[key]
    file.write_text(json.dumps(manifest))
    with pytest.raises(RecordError, match=wanted):
        load_run(tmp_path / "run")


def test_unknown_tables_list_the_known():
    run = RunWriter(None, {}).close()
    with pytest.raises(RecordError, match="unknown table 'step': known are requests"):
        run.arrow("step")


def test_schema_types_are_what_the_files_hold(tmp_path, make_run):
    make_run(tmp_path / "run", n=5, records=("requests", "steps", "tokens"))
    schema = pq.read_schema(tmp_path / "run" / "requests.parquet")
    assert schema.field("arrival_ns").type == pa.int64()
    assert not schema.field("arrival_ns").nullable
    assert schema.field("token_times_ns").type == pa.list_(pa.int64())
    steps = pq.read_schema(tmp_path / "run" / "steps.parquet")
    assert pa.types.is_dictionary(steps.field("mode").type)
