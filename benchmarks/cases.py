"""One case in a process of its own, and what it took.

CPU time is that of the process (user and system), from reading the trace to the written run folder.
The interpreter's start and the imports are apart: a handful of requests is simulated first, so that
whatever a run imports on its way has been imported. Peak memory is that of the whole process.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ROOT.parent / "shared" / "traces"
AZURE = BESIDE / "azure2023" / "AzureLLMInferenceTrace_conv.csv.gz"
MOONCAKE = BESIDE / "mooncake" / "conversation_trace.jsonl.gz"
HEADER = (
    f"{'':52} {'requests':>9} {'steps':>10} {'start s':>7} {'CPU s':>7} {'req/CPU s':>9} "
    f"{'steps/CPU s':>11} {'peak MB':>7}"
)


class Figures(NamedTuple):
    """What a case took.

    Attributes:
        requests: that ended.
        steps: of the device.
        start_s: CPU-seconds of the interpreter's start, imports and warming up.
        cpu_s: CPU-seconds from reading the trace to the written run folder.
        peak_mb: most memory the process held.
    """

    requests: int
    steps: int
    start_s: float
    cpu_s: float
    peak_mb: float

    @property
    def requests_per_s(self) -> float:
        """Requests per CPU-second."""
        return self.requests / self.cpu_s

    @property
    def steps_per_s(self) -> float:
        """Steps per CPU-second."""
        return self.steps / self.cpu_s

    def line(self, name: str, note: str = "") -> str:
        """The case's line below `HEADER`."""
        return (
            f"{name:52} {self.requests:9,} {self.steps:10,} {self.start_s:7.2f} {self.cpu_s:7.2f} "
            f"{self.requests_per_s:9,.0f} {self.steps_per_s:11,.0f} {self.peak_mb:7,.0f}  {note}"
        ).rstrip()


def warm_up(settings: Collection[str], records: Collection[str]) -> None:
    """Import what a run imports, by simulating a handful of requests."""
    from simulator import simulate
    from traces.readers.read import read_trace

    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "handful.csv"
        rows = "".join(f"2024-01-01 00:00:{i:02},{9 + i},{3 + i}\n" for i in range(8))
        trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
        run = simulate(
            read_trace(trace), settings=[*settings], records=records, out=Path(folder) / "run"
        )
        assert run.manifest["counts"]["finished"] == 8


def timed(run: Callable[[Path], Mapping[str, int]]) -> Figures:
    """Time one run in this process, warmed up.

    Args:
        run: runs into a folder that is not there yet, and returns the counts of its manifest.
    """
    start_s = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        counts = run(Path(folder) / "run")
        cpu_s = time.process_time() - start_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux gives kilobytes
    ended = counts["finished"] + counts["aborted"] + counts["refused"]
    return Figures(ended, counts["steps"], start_s, cpu_s, peak_mb)


def in_own_process(module: str, case: Mapping[str, Any]) -> Figures:
    """Run `python -m MODULE --case CASE`, which prints its figures as JSON.

    Raises:
        SystemExit: where it fails, with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, "--case", json.dumps(case)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{case}:\n{done.stderr}")
    return Figures(**json.loads(done.stdout))


def print_figures(figures: Figures) -> None:
    """Give figures to the process that asked with `in_own_process`."""
    print(json.dumps(figures._asdict()))
