"""Recordings of vLLM 0.32.0's scheduler replay step for step, and a difference would be seen."""

from __future__ import annotations

import gzip
import json
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
COMMITTED = TESTS / "goldens-vllm"
ALL = TESTS.parents[1] / "shared" / "goldens-vllm"
SMALL = "restore3.priority.b16.n41.async"


def recordings(folder: Path) -> list[Any]:
    paths = sorted(folder.glob("*.jsonl.gz"))
    return [pytest.param(p, id=p.name.removesuffix(".jsonl.gz")) for p in paths]


def test_there_are_recordings() -> None:
    assert len(recordings(COMMITTED)) == 8


@pytest.mark.parametrize("path", recordings(COMMITTED))
def test_a_committed_recording_replays_with_checked_invariants(path: Path) -> None:
    replay_file(path, check=True)


@pytest.mark.parametrize("path", recordings(COMMITTED))
def test_a_committed_recording_replays_leapt(path: Path) -> None:
    compared = replay_file(path, check=True, leap=True)
    # in the smallest one somebody is computing a prompt nearly all the time
    assert (", 0 of them leapt over" in compared) <= path.name.startswith("phantom2")


@pytest.mark.skipif(not ALL.exists(), reason="the full set of recordings is not here")
@pytest.mark.parametrize("path", recordings(ALL))
@pytest.mark.parametrize("leap", [False, True], ids=["walked", "leapt"])
def test_every_recording_replays(path: Path, leap: bool) -> None:
    replay_file(path, leap=leap)


# -- a difference is found ----------------------------------------------------------------------


def rewrite(name: str, target: Path, line: int, change: Callable[[Any], object]) -> Path:
    """A committed recording with one line changed, beside its workload."""
    lines = gzip.decompress((COMMITTED / f"{name}.jsonl.gz").read_bytes()).decode().splitlines()
    changed = json.loads(lines[line])
    change(changed)
    lines[line] = json.dumps(changed)
    shutil.copytree(COMMITTED / "workloads", target / "workloads")
    path = target / f"{name}.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    return path


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r["sched"]["running"][0].__setitem__(2, 7), "sched.running"),
        (lambda r: r["sched"]["blocks"][0].append(1), "sched.blocks"),
        (lambda r: r["sched"].update(preempted=["H"]), "sched.preempted"),
        (lambda r: r["sched"].update(cached=3), "sched.cached"),
        (lambda r: r["sched"].update(fq=1), "sched.fq"),
        (lambda r: r["end"].update(free=1), "end.free"),
        (lambda r: r.update(emitted=9), "emitted"),
        (lambda r: r.update(processed=False), "processed"),
        (lambda r: r.update(finished=[["H", "stop", 1, 0, 0, 0]]), "finished"),
    ],
)
def test_a_planted_difference_is_found_where_it_is(
    tmp_path: Path, change: Callable[[Any], object], field: str
) -> None:
    path = rewrite(SMALL, tmp_path, 8, change)
    with pytest.raises(Difference, match=rf"^step 7: {field}: recorded "):
        replay_file(path)


LEAPT = "edge80.fcfs.b16.small.sync"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r["sched"]["running"][0].__setitem__(1, 7), "sched.running"),
        (lambda r: r["sched"]["blocks"][0].append(1), "sched.blocks"),
        (lambda r: r["sched"].update(cached=3), "sched.cached"),
        (lambda r: r["sched"].update(fq=1), "sched.fq"),
        (lambda r: r["sched"].update(free=1), "sched.free"),
        (lambda r: r["end"].update(fq=1), "end.fq"),
        (lambda r: r.update(emitted=99), "emitted"),
    ],
)
def test_a_planted_difference_is_found_in_a_round_leapt_over(
    tmp_path: Path, change: Callable[[Any], object], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    over: list[int] = []
    world = goldens.goldens_vllm.VLLMWorld
    records = world._repeated_records

    def noted(self: Any, done: Any) -> Iterator[Any]:
        for record in records(self, done):
            over.append(record["step"])
            yield record

    monkeypatch.setattr(world, "_repeated_records", noted)
    name = f"{LEAPT}.jsonl.gz"
    replay_file(COMMITTED / name, leap=True)
    step = over[len(over) // 2]
    lines = gzip.decompress((COMMITTED / name).read_bytes()).splitlines()
    at = next(i for i, line in enumerate(lines) if json.loads(line).get("step") == step)
    path = rewrite(LEAPT, tmp_path, at, change)
    with pytest.raises(Difference, match=rf"^step {step}: {field}: recorded "):
        replay_file(path, leap=True)


def test_without_its_accident_the_scheduler_parts_from_the_recording_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So what the switch changes is what the recording shows."""
    reproducing = goldens.goldens_vllm.policy_of

    def without(config: dict[str, Any]) -> Any:
        policy = reproducing(config)
        accidents = policy.accidents.model_copy(update={"planned_blocks_are_hits": False})
        return policy.model_copy(update={"accidents": accidents})

    monkeypatch.setattr(goldens.goldens_vllm, "policy_of", without)
    with pytest.raises(Difference, match=r"^step 2: sched\.cached: recorded 10, ours 8"):
        replay_file(COMMITTED / "phantom2.priority.b16.sync.jsonl.gz")


def test_main_replays_both_kinds_of_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(COMMITTED), SMALL]) == 0
    assert f"{SMALL}.jsonl.gz: identical (" in capsys.readouterr().out
