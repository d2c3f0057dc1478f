"""Measure the runtime on a GPU, in stages whose results stay.

    python -m benchmarks.gpu [--stages NAME ...] [--out DIR] [--minutes N] [--again] [--tiny]

Each stage runs in a process of its own and writes DIR/<stage>.json as it ends; where that is there the
stage is skipped, so that a run that was cut short goes on where it was. Without a GPU it says what it would
run. `--tiny` runs every stage's logic with a model of a few thousand parameters on the CPU.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.stages import Stage, find

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu"


def gpu_name() -> tuple[str | None, str]:
    """The GPU's name, or None and why there is none."""
    try:
        import torch
    except ImportError:
        return None, "torch is not installed"
    if not torch.cuda.is_available():
        return None, f"torch {torch.__version__} finds no CUDA GPU"
    return torch.cuda.get_device_name(0), ""


def run_stage(name: str, folder: Path, *, tiny: bool) -> None:
    """Run one stage in this process."""
    from benchmarks.gpu.place import Place

    place = Place(name, folder, tiny=tiny)
    importlib.import_module(f"benchmarks.gpu.{name}").run(place)
    place.finish()


def run_all(
    stages: tuple[Stage, ...], folder: Path, minutes: float, *, again: bool, tiny: bool
) -> list[str]:
    """Run stages, each in a process of its own; returns the names of those that failed."""
    end = time.monotonic() + minutes * 60
    failed: list[str] = []
    for stage in stages:
        if (folder / f"{stage.name}.json").is_file() and not again:
            print(f"{stage.name}: is there already (--again repeats it)", flush=True)
            continue
        left = (end - time.monotonic()) / 60
        if left < stage.minutes and not tiny:
            print(
                f"{stage.name}: left out, {left:.1f} minutes are left and it takes about ", end=""
            )
            print(f"{stage.minutes:g}; the same command goes on with it", flush=True)
            continue
        missing = [name for name in stage.needs if find_spec(name) is None]
        if missing:
            print(f"{stage.name}: left out, it needs {', '.join(missing)}", flush=True)
            continue
        print(f"{stage.name}: {stage.says}", flush=True)
        command = [sys.executable, "-m", "benchmarks.gpu", "--inside", stage.name]
        command += ["--out", str(folder), *(["--tiny"] if tiny else [])]
        began = time.monotonic()
        code = run_for(command, 60 * min(stage.most_minutes, left))
        how = {0: "done", None: "out of time"}.get(code, f"ended with {code}")
        print(f"{stage.name}: {how} after {time.monotonic() - began:.0f} s", flush=True)
        if code != 0:
            failed.append(stage.name)
    return failed


def run_for(command: list[str], seconds: float) -> int | None:
    """Run a command; its exit status, or None where it, and what it started, was ended for time."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(seconds)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return None
        raise


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--stages", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu/<gpu>")
    parser.add_argument("--minutes", type=float, default=25.0, help="for all stages together")
    parser.add_argument("--again", action="store_true", help="repeat stages that have a result")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    try:
        stages = find([given.inside] if given.inside else given.stages)
    except ValueError as error:
        parser.error(str(error))
    if given.inside:
        run_stage(given.inside, given.out, tiny=given.tiny)
        return 0
    name, why = ("CPU, tiny", "") if given.tiny else gpu_name()
    if name is None:
        print(f"There is no GPU to measure: {why}. On a machine with one, this would run:")
        for stage in stages:
            print(f"  {stage.name:10} {stage.says} (about {stage.minutes:g} min)")
        return 0
    folder = given.out
    if folder is None:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        folder = Path(tempfile.mkdtemp()) if given.tiny else RESULTS / slug
    print(f"{name}; results go to {folder}", flush=True)
    failed = run_all(stages, folder.resolve(), given.minutes, again=given.again, tiny=given.tiny)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
