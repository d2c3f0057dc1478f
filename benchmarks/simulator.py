"""How fast the simulator is, how much memory it takes, and how that grows.

    python -m benchmarks.simulator [--azure PATH] [--mooncake PATH] [--quick]

Prints, for each case, requests and steps per CPU-second (user and system time of the process, from
reading the trace to the written run folder; the interpreter's start and imports apart) and the peak
memory. Each case runs in a process of its own. Where the traces are not given and not found beside
the repository, workloads generated with their statistics stand in, and are named so.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ROOT.parent / "shared" / "traces"
AZURE = BESIDE / "azure2023" / "AzureLLMInferenceTrace_conv.csv.gz"
MOONCAKE = BESIDE / "mooncake" / "conversation_trace.jsonl.gz"


def steady_decode(requests: int, steps: int, settings: list[str]) -> dict[str, float]:
    """Decode steps of a full batch in which nothing changes."""
    from simulator import simulate
    from traces import SyntheticTokens, TraceRequest, Workload

    work = Workload(
        "steady",
        [
            TraceRequest(f"r{i:04}", 0, SyntheticTokens(i, 512), SyntheticTokens(10**6 + i, steps))
            for i in range(requests)
        ],
    )
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = simulate(work, settings=settings, out=Path(folder) / "run")
    return _figures(run.manifest["counts"], time.process_time() - started)


def replay(trace: str, settings: list[str], limit: int | None, speedup: float) -> dict[str, float]:
    """A trace, from its file to the written run folder."""
    from simulator import simulate

    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = simulate(
            trace, settings=settings, limit=limit, speedup=speedup, out=Path(folder) / "run"
        )
    return _figures(run.manifest["counts"], time.process_time() - started)


def _figures(counts: dict[str, int], cpu_s: float) -> dict[str, float]:
    ended = counts["finished"] + counts["aborted"] + counts["refused"]
    return {"requests": ended, "steps": counts["steps"], "cpu_s": cpu_s}


def _child(case: str) -> None:
    """Run one case, described in JSON, and print its figures as JSON."""
    task = json.loads(case)
    import simulator.simulation  # noqa: F401 - imports are not timed
    import traces.generate.stream
    import traces.inspect
    import traces.readers.read  # noqa: F401

    figures = steady_decode(**task["steady"]) if "steady" in task else replay(**task["replay"])
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))


def measure(name: str, case: dict[str, object]) -> dict[str, float]:
    """Run a case in a process of its own and print its line."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.simulator", "--case", json.dumps(case)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    cpu_s = figures["cpu_s"]
    print(
        f"{name:58} {figures['requests']:8,.0f} {figures['steps']:9,.0f} {cpu_s:8.2f} "
        f"{figures['requests'] / cpu_s:9,.0f} {figures['steps'] / cpu_s:11,.0f} "
        f"{figures['peak_mb']:8,.0f}",
        flush=True,
    )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--azure", type=Path, default=AZURE, help="Azure 2023 conversation CSV")
    parser.add_argument("--mooncake", type=Path, default=MOONCAKE, help="Mooncake conversation")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        _child(arguments.case)
        return
    share = 10 if arguments.quick else 1
    azure = str(arguments.azure) if arguments.azure.exists() else "azure-conversation"
    mooncake = str(arguments.mooncake) if arguments.mooncake.exists() else "mooncake-conversation"
    print("Qwen3-8B on one H200, roofline, step and request records; times are CPU-seconds.\n")
    print(
        f"{'':58} {'requests':>8} {'steps':>9} {'CPU s':>8} {'req/CPU s':>9} {'steps/CPU s':>11} "
        f"{'peak MB':>8}"
    )
    for batch in (1, 64, 256):
        steps = min(20_000, 640_000 // batch)  # what the KV pool holds
        steady = {"requests": batch, "steps": steps, "settings": []}
        measure(f"steady decode, {batch} requests, nothing changes", {"steady": steady})
    steady = {"requests": 64, "steps": 10_000, "settings": ["preset=vllm"]}
    measure("steady decode, 64 requests, preset=vllm", {"steady": steady})

    def case(
        trace: str, n: int | None, settings: tuple[str, ...] = (), speedup: float = 1.0
    ) -> dict:
        return {"replay": {"trace": trace, "settings": settings, "limit": n, "speedup": speedup}}

    for name, trace, total in (("Azure", azure, 19_366), ("Mooncake", mooncake, 12_031)):
        label = f"{name} conversation{'' if Path(trace).exists() else ' (generated)'}"
        limit = total // share
        for settings in (
            (),
            ("policy.order=lpm",),
            ("policy.page_size=16",),
            ("preset=vllm",),
        ):
            what = settings[0].removeprefix("policy.") if settings else "fcfs, page_size=1"
            measure(f"{label}, {what}", case(trace, limit, settings))

    print("\nGrowth, on generated workloads (requests of Azure's lengths, at one rate):")
    sizes = [n // share for n in (2_000, 5_000, 10_000, 20_000)]
    costs = [
        measure(f"azure-conversation, {n:,} requests", case("azure-conversation", n))["cpu_s"]
        for n in sizes
    ]
    exponent = math.log(costs[-1] / costs[0]) / math.log(sizes[-1] / sizes[0])
    print(f"cost grows as requests^{exponent:.2f} from {sizes[0]:,} to {sizes[-1]:,}")


if __name__ == "__main__":
    main()
