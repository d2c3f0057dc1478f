"""Fetching: from a server here, checked, cached, and whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

import pytest
from click.testing import CliRunner

from traces import TraceError, read_trace
from traces.catalogue import Entry, FetchError, cache_folder, catalogue, fetch, find
from traces.readers.registry import FORMATS
from twin.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = "".join(
    json.dumps({"timestamp": t, "input_length": 9, "output_length": 2, "hash_ids": [t]}) + "\n"
    for t in range(3)
).encode()
SHA256 = hashlib.sha256(ROWS).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves a few paths, and counts what it is asked for."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        content = {
            "good.jsonl": ROWS,
            "good.jsonl.gz": gzip.compress(ROWS, mtime=0),
            "cut.jsonl": ROWS,
            "damaged.jsonl.gz": gzip.compress(ROWS, mtime=0)[:-12],
            "other.jsonl": ROWS[:-2] + b" }\n",
            "pointer.jsonl": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        }.get(name)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:20] if name.startswith("cut") else content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Handler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def entries(url: str, file: str, size: int | None = len(ROWS), sha256: str | None = SHA256) -> dict:
    return {"it": Entry("it", "a trace", "mooncake", f"{url}/{file}", "CC0", size, sha256)}


@pytest.mark.parametrize("file", ["good.jsonl", "good.jsonl.gz"])
def test_a_trace_is_downloaded_once_checked_and_kept(tmp_path, url, file):
    told: list[tuple[int, int | None]] = []
    path = fetch(
        "it",
        folder=tmp_path,
        entries=entries(url, file),
        progress=lambda done, total: told.append((done, total)),
    )
    assert path == tmp_path / "it" / file
    assert len(read_trace(path)) == 3
    assert told[-1] == (path.stat().st_size,) * 2
    assert fetch("it", folder=tmp_path, entries=entries(url, file)) == path
    assert Handler.asked == [f"/{file}"]
    assert [p.name for p in path.parent.iterdir()] == [file]


@pytest.mark.parametrize(
    ("file", "size", "sha256", "message"),
    [
        ("missing.jsonl", None, None, "cannot be had: Not Found"),
        ("cut.jsonl", None, None, "20 of|IncompleteRead"),
        ("damaged.jsonl.gz", None, None, "damaged"),
        ("other.jsonl", None, SHA256, f"gives another file: sha256 .*; expected {SHA256}"),
        ("other.jsonl", 7, None, "bytes uncompressed; expected 7"),
        ("pointer.jsonl", None, None, "a git-LFS pointer, not the file"),
    ],
)
def test_a_failure_is_said_and_leaves_nothing(tmp_path, url, file, size, sha256, message):
    with pytest.raises(FetchError, match=message) as caught:
        fetch("it", folder=tmp_path, entries=entries(url, file, size, sha256))
    assert str(caught.value).startswith("it: ") or "it:" in str(caught.value)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_server_that_is_not_there_is_said(tmp_path):
    known = entries("http://127.0.0.1:9", "good.jsonl")
    with pytest.raises(FetchError, match=r"http://127.0.0.1:9/good.jsonl cannot be had: .*refused"):
        fetch("it", folder=tmp_path, entries=known)


def test_an_interrupted_download_leaves_nothing(tmp_path, url):
    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("it", folder=tmp_path, entries=entries(url, "good.jsonl"), progress=stop)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_unknown_names_and_strange_addresses_are_refused(tmp_path):
    with pytest.raises(FetchError, match="no trace 'nothing' in the catalogue; known: azure-2023"):
        fetch("nothing", folder=tmp_path)
    with pytest.raises(ValueError, match="expected http or https"):
        Entry("it", "a trace", "mooncake", "file:///etc/passwd", "CC0")


def test_every_entry_says_where_it_is_from_and_under_what_licence():
    for name, entry in catalogue().items():
        assert entry.name == name
        assert entry.licence
        assert entry.format in FORMATS
        assert entry.url.startswith("https://")
        assert entry.sha256 is None or len(entry.sha256) == 64
        assert entry.verified in ("sha256", "size", "none")
    # an archive that its server makes anew has no checksum of its own
    assert [e.name for e in catalogue().values() if e.verified != "sha256"] == ["weka-agents"]


def test_a_checksum_is_of_a_file_that_does_not_change():
    """An address of a branch would give another file one day, and the checksum would refuse it."""
    for entry in catalogue().values():
        if entry.sha256 is not None:
            assert re.search(r"/[0-9a-f]{40}/|/releases/download/", entry.url), entry.url


@pytest.fixture
def command(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """The command, with a catalogue of the server's files and a cache of its own."""
    known = {
        "it": Entry("it", "a trace", "mooncake", f"{url}/good.jsonl", "CC0", None, SHA256),
        "unchecked": Entry("unchecked", "a trace", "mooncake", f"{url}/good.jsonl", "CC0"),
        "lost": Entry("lost", "a trace", "mooncake", f"{url}/missing.jsonl", "CC0"),
    }
    monkeypatch.setattr("traces.catalogue.catalogue", lambda: known)
    monkeypatch.setattr("traces.catalogue.cache_folder", lambda: tmp_path / "cache")
    return CliRunner()


def test_a_fetched_trace_is_found_by_its_name(command, tmp_path):
    before = command.invoke(main, ["trace", "inspect", "it"])
    assert before.exit_code == 2
    assert "`twin trace fetch it`" in before.output
    fetched = command.invoke(main, ["trace", "fetch", "it"])
    assert fetched.exit_code == 0, fetched.output
    assert str(tmp_path / "cache" / "it" / "good.jsonl") in fetched.stdout
    assert read_trace("it").name == "good"
    after = command.invoke(main, ["trace", "inspect", "it"])
    assert after.exit_code == 0, after.output
    assert find("it") is not None
    assert find("lost") is None


def test_fetch_says_what_failed(command):
    unknown = command.invoke(main, ["trace", "fetch", "nothing"])
    assert (unknown.exit_code, "known: it, unchecked, lost" in unknown.output) == (2, True)
    lost = command.invoke(main, ["trace", "fetch", "lost"])
    assert (lost.exit_code, "cannot be had" in lost.output) == (1, True)
    unchecked = command.invoke(main, ["trace", "fetch", "unchecked"])
    assert (unchecked.exit_code, "no checksum is known" in unchecked.output) == (0, True)


def test_a_name_that_is_nowhere_is_a_missing_file():
    with pytest.raises(TraceError, match="no such file; expected a trace file"):
        read_trace("not-in-the-catalogue")


def test_the_cache_is_where_programs_keep_theirs():
    assert cache_folder().parts[-2:] == ("schedtwin", "traces")


def test_formats_and_catalogue_are_listed():
    formats = CliRunner().invoke(main, ["trace", "formats"], env={"COLUMNS": "300"})
    assert formats.exit_code == 0
    assert all(name in formats.output for name in FORMATS)
    listed = CliRunner().invoke(main, ["trace", "catalogue"], env={"COLUMNS": "400"})
    assert listed.exit_code == 0
    assert all(name in listed.output for name in catalogue())


def test_convert_writes_and_says_what_is_lost(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "new" / "out.jsonl"
    source.write_bytes(ROWS)
    base = ["trace", "convert", str(source)]
    done = CliRunner().invoke(main, [*base, "--to", "native", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "3 requests" in done.output
    assert read_trace(out).requests == read_trace(source).requests
    again = CliRunner().invoke(main, [*base, "--to", "native", "--out", str(out)])
    assert (again.exit_code, "--overwrite" in again.output) == (2, True)
    unknown = CliRunner().invoke(main, [*base, "--to", "csv", "--out", str(out)])
    assert (unknown.exit_code, "known: native, mooncake, aiperf" in unknown.output) == (2, True)
    small = [*base, "--to", "mooncake", "--block-size", "4", "--out", str(tmp_path / "m")]
    strict = CliRunner().invoke(main, small)
    assert (strict.exit_code, "cannot hold" in strict.output) == (2, True)
    lossy = CliRunner().invoke(main, [*small, "--lossy"])
    assert (lossy.exit_code, "lost: what prompts hold within blocks of 4" in lossy.output) == (
        0,
        True,
    )
