"""Recordings of SGLang 0.5.23's scheduler replay step for step, and a difference would be seen."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

goldens: Any = import_module("tests.goldens")  # the program, beside the folder of that name
Difference: type[Exception] = goldens.Difference
main, replay_file = goldens.main, goldens.replay_file

TESTS = Path(__file__).resolve().parents[1]
COMMITTED = TESTS / "goldens"
ALL = TESTS.parents[1] / "shared" / "goldens"
SMALL = "keys120.lpm.p1.extra_key"


def recordings(folder: Path) -> list[Any]:
    return [pytest.param(p, id=p.name.removesuffix(".jsonl.gz")) for p in _paths(folder)]


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl.gz"))


def leapt(compared: str) -> int:
    """How many rounds a replay says that it has leapt over."""
    found = re.search(r"(\d+) of them leapt over", compared)
    assert found is not None
    return int(found[1])


def scheduler_traces(folder: Path) -> list[Any]:
    """One of each workload: its most interesting settings are the last by name."""
    last = {p.name.partition(".")[0]: p for p in _paths(folder) if ".p" in p.name}
    return [pytest.param(p, id=p.name.removesuffix(".jsonl.gz")) for p in last.values()]


@pytest.mark.parametrize("path", recordings(COMMITTED))
def test_a_committed_recording_replays(path: Path) -> None:
    replay_file(path)


@pytest.mark.parametrize("path", [p for p in _paths(COMMITTED) if ".p" in p.name], ids=str)
def test_a_committed_recording_replays_leapt(path: Path) -> None:
    compared = replay_file(path, leap=True, check=path.name.startswith(("keys", "prio")))
    assert leapt(compared) > 50


@pytest.mark.parametrize("path", [p for p in _paths(COMMITTED) if ".p" in p.name], ids=str)
def test_real_pages_and_checked_invariants_change_nothing(path: Path) -> None:
    replay_file(path, indexed=True, check=path.name.startswith(("keys", "prio")))


@pytest.mark.skipif(not ALL.exists(), reason="the full set of recordings is not here")
@pytest.mark.parametrize("path", recordings(ALL))
def test_every_recording_replays(path: Path) -> None:
    replay_file(path)


@pytest.mark.skipif(not ALL.exists(), reason="the full set of recordings is not here")
@pytest.mark.parametrize("path", [p for p in _paths(ALL) if ".p" in p.name], ids=str)
def test_every_recording_replays_leapt(path: Path) -> None:
    assert leapt(replay_file(path, leap=True)) > 50


@pytest.mark.skipif(not ALL.exists(), reason="the full set of recordings is not here")
@pytest.mark.parametrize("path", scheduler_traces(ALL))
def test_every_workload_replays_with_real_pages_and_checks(path: Path) -> None:
    replay_file(path, indexed=True, check=True)


# -- a difference is found ----------------------------------------------------------------------


def rewrite(source: Path, target: Path, line: int, change: Callable[[Any], object]) -> None:
    """Copy a recording with one line changed."""
    lines = gzip.decompress(source.read_bytes()).decode().splitlines()
    changed = json.loads(lines[line])
    change(changed)
    lines[line] = json.dumps(changed)
    target.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(COMMITTED / "workloads", tmp_path / "workloads")
    return tmp_path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ratio", 0.123),
        ("waiting", ["nobody"]),
        ("free", -1),
        ("evicted", 10**6),
        ("finished", [["r0000", 1, "FINISH_LENGTH", 0, 0]]),
    ],
)
def test_a_planted_difference_is_found_where_it_is(folder: Path, field: str, value: Any) -> None:
    name = f"{SMALL}.jsonl.gz"
    rewrite(COMMITTED / name, folder / name, 200, lambda r: r.update({field: value}))
    recorded = json.loads(gzip.decompress((COMMITTED / name).read_bytes()).splitlines()[200])
    with pytest.raises(Difference, match=rf"^step {recorded['step']}: {field}: recorded "):
        replay_file(folder / name)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decode", []),
        ("ratio", 0.123),
        ("waiting", ["nobody"]),
        ("free", -1),
        ("evictable", -1),
        ("protected", -1),
        ("evicted", 10**6),
    ],
)
def test_a_planted_difference_is_found_in_a_round_leapt_over(
    folder: Path, field: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    over: list[int] = []
    records = goldens.GoldenWorld._repeated_records

    def noted(world: Any, done: Any) -> Iterator[Any]:
        for record in records(world, done):
            over.append(record["step"])
            yield record

    monkeypatch.setattr(goldens.GoldenWorld, "_repeated_records", noted)
    name = f"{SMALL}.jsonl.gz"
    replay_file(COMMITTED / name, leap=True)
    step = over[len(over) // 2]
    lines = [json.loads(x) for x in gzip.decompress((COMMITTED / name).read_bytes()).splitlines()]
    at = next(i for i, line in enumerate(lines) if line.get("step") == step)
    rewrite(COMMITTED / name, folder / name, at, lambda r: r.update({field: value}))
    with pytest.raises(Difference, match=rf"^step {step}: {field}: recorded "):
        replay_file(folder / name, leap=True)


@pytest.mark.parametrize(
    ("name", "line", "change", "found"),
    [
        ("radix_ops", 100, lambda r: r["res"].update(evictable=-1), "operation 99 .*evictable"),
        ("policy_order", 3, lambda r: r["order"].reverse(), "place 0: recorded"),
        ("prefill_adder", 5, lambda r: r["start"].update(rem_total=-1), "start: rem_total"),
    ],
)
def test_a_planted_difference_is_found_in_every_kind(
    folder: Path, name: str, line: int, change: Callable[[Any], object], found: str
) -> None:
    rewrite(COMMITTED / f"{name}.jsonl.gz", folder / f"{name}.jsonl.gz", line, change)
    with pytest.raises(Difference, match=found):
        replay_file(folder / f"{name}.jsonl.gz")


def test_a_recording_cut_short_is_a_difference(folder: Path) -> None:
    name = f"{SMALL}.jsonl.gz"
    lines = gzip.decompress((COMMITTED / name).read_bytes()).splitlines()
    (folder / name).write_bytes(gzip.compress(b"\n".join(lines[:300]), mtime=0))
    with pytest.raises(Difference, match="the recording ends, the replay goes on"):
        replay_file(folder / name)


def test_main_says_identical_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(COMMITTED), SMALL, "radix_ops"]) == 0
    out = capsys.readouterr().out
    assert f"{SMALL}.jsonl.gz: identical (440 steps)" in out
    assert "2 of 2 identical" in out


def test_main_says_how_many_rounds_were_leapt_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(COMMITTED), "--leap", SMALL, "radix_ops"]) == 0
    out = capsys.readouterr().out
    assert f"{SMALL}.jsonl.gz: identical (440 steps, 112 of them leapt over)" in out
    assert "2 of 2 identical" in out


def test_main_names_the_difference_and_exits_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{SMALL}.jsonl.gz"
    rewrite(COMMITTED / name, folder / name, 5, lambda r: r.update(free=12345))
    shutil.copy(COMMITTED / "radix_ops.jsonl.gz", folder)
    assert main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert "free: recorded 12345, ours " in out
    assert "radix_ops.jsonl.gz: identical" in out
    assert "1 of 2 identical" in out


def test_main_finds_a_folder_without_recordings_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 1
    assert "no recordings" in capsys.readouterr().out
