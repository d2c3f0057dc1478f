"""The same inputs give the same bytes: again, in another process, whatever the hash seed and flushes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import simulator.recorder
import traces.records.writer
from simulator import simulate
from tests.simulator.harness import MS, crowd
from traces.records import load_run
from traces.records.schema import TABLES
from traces.records.writer import RunWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ("requests", "steps", "tokens", "decisions")
# evictions, retractions and ties: everything that could come in another order
CROWDED = (
    "kv.capacity_tokens=12000",
    "workload.ignore_eos=false",
    "workload.max_new_tokens=600",
    "policy.prefill_max_requests=2",
    "policy.new_token_ratio={conservativeness: 0.05, decay_steps: 3}",
)
SHARED = ("kv.capacity_tokens=60000",)
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lpm": ("mooncake-conversation", (*SHARED, "policy.order=lpm")),
    "dfs": ("mooncake-conversation", (*SHARED, "policy.order=dfs-weight", "policy.page_size=16")),
    "random": ("azure-conversation", (*CROWDED, "policy.order=random", "policy.batching=mixed")),
    "slru": ("azure-conversation", (*CROWDED, "policy.eviction=slru")),
}

PROGRAM = """
import sys
from simulator import simulate
out, preset, *settings = sys.argv[1:]
simulate(
    preset,
    settings=settings,
    limit=60,
    speedup=20.0,
    records=("requests", "steps", "tokens", "decisions"),
    out=out,
)
"""


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_here(out: Path, name: str, *more: str) -> dict[str, bytes]:
    preset, settings = CASES[name]
    simulate(preset, settings=[*settings, *more], limit=60, speedup=20.0, records=RECORDS, out=out)
    return files(out)


def run_afresh(out: Path, name: str, env: Mapping[str, str]) -> dict[str, bytes]:
    preset, settings = CASES[name]
    command = [sys.executable, "-c", PROGRAM, str(out), preset, *settings]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **env})
    return files(out)


@pytest.mark.parametrize("name", CASES)
def test_running_twice_gives_the_same_folder(name: str, tmp_path: Path) -> None:
    first = run_here(tmp_path / "a", name)
    assert set(first) == {"manifest.json", *(f"{table}.parquet" for table in TABLES)}
    assert run_here(tmp_path / "b", name) == first


def test_another_process_with_another_hash_seed_gives_the_same_folder(tmp_path: Path) -> None:
    env = {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    assert run_afresh(tmp_path / "b", "random", env) == run_here(tmp_path / "a", "random")


def test_the_seed_and_the_policy_do_matter(tmp_path: Path) -> None:
    """So the tests above compare runs that could well have differed."""
    runs = [run_here(tmp_path / name, name) for name in CASES]
    runs.append(run_here(tmp_path / "seed", "lpm", "seed=1"))
    assert len({run["steps.parquet"] for run in runs}) == len(runs)
    crowded = load_run(tmp_path / "slru").summary()
    assert crowded.retractions > 0
    assert load_run(tmp_path / "lpm").steps["evicted_tokens"].sum() > 0


@pytest.mark.parametrize("rows", [40, 700])
def test_when_rows_are_flushed_changes_nothing(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_here(tmp_path / "whole", "slru")
    flushes = 0
    flush = RunWriter.flush

    def counted(self: RunWriter) -> None:
        nonlocal flushes
        flushes += 1
        flush(self)

    monkeypatch.setattr(RunWriter, "flush", counted)
    monkeypatch.setattr(simulator.recorder, "FLUSH_EVERY", rows)
    monkeypatch.setattr(traces.records.writer, "FLUSH_ROWS", rows)
    assert run_here(tmp_path / "parts", "slru") == whole
    assert flushes > 1


def test_recording_more_changes_nothing_of_what_is_recorded() -> None:
    """Nor does a progress bar: whoever watches has no part in it."""
    work = crowd(4, 80, 4 * MS, prompt=200, output=20)
    plain = simulate(work)
    told: list[tuple[int, int]] = []
    full = simulate(work, records=RECORDS, progress=lambda *counts: told.append(counts))
    names = plain.arrow("requests").column_names
    assert full.arrow("requests").select(names).equals(plain.arrow("requests"))
    assert full.arrow("steps").equals(plain.arrow("steps"))
    assert full.manifest["itl"] == plain.manifest["itl"]
    assert told[-1] == (80, 80)


def test_times_are_whole_nanoseconds() -> None:
    run = simulate(crowd(2, 20, 4 * MS, prompt=200, output=20), records=RECORDS)
    times = 0
    for table in TABLES:
        for field in run.arrow(table).schema:
            if field.name.endswith("_ns"):
                times += 1
                assert str(field.type) in {"int64", "list<element: int64>", "list<item: int64>"}
    assert times >= 3 + 1 + 10 + 1
    assert isinstance(run.manifest["end_ns"], int)
    assert isinstance(run.manifest["device_busy_ns"], int)
