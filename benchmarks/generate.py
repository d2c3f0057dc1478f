"""What generating costs: CPU time and memory of a million requests, streamed and written.

    python -m benchmarks.generate [--requests N] [PRESET ...]

Prints, for each preset, CPU-seconds and peak memory of making the requests one after another, and of
writing them as a native trace as they are made (`none`: only made). Each case runs in a process of
its own; the interpreter's start and imports are not timed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("azure-conversation", "mooncake-conversation", "weka-agents")
FILES = ("none", "trace.jsonl", "trace.jsonl.zst", "trace.jsonl.gz")


def generated(preset: str, requests: int, file: str) -> dict[str, float]:
    """CPU-seconds, peak MB, and MB written."""
    from traces.generate import generate_stream
    from traces.native import write_native

    generate_stream(preset, n=1).requests.__next__()  # imports are not timed
    started = time.process_time()
    stream = generate_stream(preset, n=requests)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        if file == "none":
            deque(stream, maxlen=0)
        else:
            write_native(stream, path)
        cpu_s = time.process_time() - started
        written = path.stat().st_size / 1e6 if path.exists() else 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_s": cpu_s, "peak_mb": peak, "written_mb": written}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("presets", nargs="*", default=PRESETS, metavar="PRESET")
    parser.add_argument("--requests", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(generated(**json.loads(given.case))))
        return
    print(f"{given.requests:,} requests")
    print(
        f"{'preset':24} {'written as':16} {'CPU s':>8} {'us/request':>11} {'peak MB':>8} {'MB':>8}"
    )
    for preset in given.presets:
        for file in FILES:
            case = {"preset": preset, "requests": given.requests, "file": file}
            command = [sys.executable, "-m", "benchmarks.generate", "--case", json.dumps(case)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            each_us = found["cpu_s"] / given.requests * 1e6
            print(
                f"{preset:24} {file:16} {found['cpu_s']:8.1f} {each_us:11.1f} "
                f"{found['peak_mb']:8.0f} {found['written_mb']:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
