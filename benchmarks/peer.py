"""Another simulator beside this one, on the same traces in one run: NVIDIA Dynamo's, written in Rust.

    python -m benchmarks.peer [--python PATH] [--azure PATH] [--mooncake PATH] [--quick]

PATH is the interpreter of an environment where the peer is installed, such as

    python -m venv /tmp/peer && /tmp/peer/bin/pip install ai-dynamo==1.4.2 ai-dynamo-runtime==1.4.2
    python -m benchmarks.peer --python /tmp/peer/bin/python

Prints, for each case, requests per CPU-second of either and the ratio. The peer reads a Mooncake file
and returns its statistics, and writes nothing; ours reads the trace and writes the run folder with a row
for each request. Both have a KV pool of the same size, pages, chunks and order. How long a step takes is
each one's own model, so that they do not go through the same steps; the peer's GPU is slower by default,
and falls behind the Mooncake trace.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.cases import AZURE, MOONCAKE, ROOT, in_own_process, print_figures, timed, warm_up

INSTALL = """\
{python} has no peer ({why}). To measure it:

    python -m venv /tmp/peer
    /tmp/peer/bin/pip install ai-dynamo==1.4.2 ai-dynamo-runtime==1.4.2
    python -m benchmarks.peer --python /tmp/peer/bin/python
"""
HASHED = 512  # tokens per prefix hash in the traces


def run_peer(trace: str, engine: dict[str, Any]) -> dict[str, float]:
    """One case of the peer's, in this process, where it is installed."""
    from dynamo._core import MockEngineArgs
    from dynamo.replay import run_trace_replay

    arguments = MockEngineArgs.from_json(json.dumps(engine))
    started = time.process_time()
    report = run_trace_replay(trace, extra_engine_args=arguments, trace_block_size=HASHED)
    return {
        "cpu_s": time.process_time() - started,
        "requests": report["completed_requests"],
    }


def ask_peer(python: str, trace: str, engine: dict[str, Any]) -> dict[str, float]:
    """As `run_peer`, in a process of its own.

    Raises:
        SystemExit: where it fails, with what it said.
    """
    task = json.dumps({"trace": trace, "engine": engine})
    done = subprocess.run(
        [python, "-m", "benchmarks.peer", "--peer-case", task],
        cwd=ROOT,
        env={**os.environ, "DYN_LOG": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{task}:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def why_not(python: str) -> str | None:
    """Why the peer cannot be run with an interpreter; None if it can."""
    done = subprocess.run(
        [python, "-c", "import dynamo.replay"], capture_output=True, text=True, check=False
    )
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


def run_ours(trace: str, limit: int, settings: list[str]) -> None:
    """One case of ours, as `benchmarks.simulator` measures it."""
    from simulator import simulate

    records = ("requests",)
    warm_up(settings, records)
    print_figures(
        timed(
            lambda out: simulate(
                trace, settings=settings, limit=limit, records=records, out=out
            ).manifest["counts"]
        )
    )


def as_mooncake(trace: Path, limit: int, folder: Path) -> Path:
    """A trace as the peer reads it: Mooncake's JSONL, not compressed."""
    from traces import read_trace
    from traces.writers.write import write_trace

    path = folder / f"{trace.name.partition('.')[0]}.jsonl"
    write_trace(read_trace(trace, limit=limit), path, "mooncake", lossy=True, block_size=HASHED)
    return path


def compare(python: str, traces: dict[str, tuple[Path, int]]) -> None:
    """Every case of both, beside each other."""
    from simulator.config import Plan, SimulatorConfig

    plan = Plan.of(SimulatorConfig())
    capacity = plan.kv_capacity
    sglang = {
        "chunked_prefill_size": plan.policy.chunked_prefill_size,
        "max_prefill_tokens": plan.policy.max_prefill_tokens,
    }
    print(f"{'':42} {'requests':>9} {'peer: CPU s':>12} {'req/CPU s':>10} ", end="")
    print(f"{'ours: CPU s':>12} {'req/CPU s':>10} {'ours/peer':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (trace, limit) in traces.items():
            path = as_mooncake(trace, limit, Path(folder))
            cases: list[tuple[str, dict[str, Any], list[str]]] = [
                (
                    f"{name}, {order}, page size {page}",
                    {
                        "engine_type": "sglang",
                        "block_size": page,
                        "num_gpu_blocks": capacity // page,
                        "max_num_seqs": plan.policy.max_running_requests,
                        "sglang": {**sglang, "schedule_policy": order},
                    },
                    [f"policy.order={order}", f"policy.page_size={page}"],
                )
                for order, page in product(("fcfs", "lpm"), (1, 16))
            ]
            vllm = {"engine_type": "vllm", "block_size": 16, "num_gpu_blocks": capacity // 16}
            cases.append((f"{name}, vllm", vllm, ["preset=vllm"]))
            for label, engine, settings in cases:
                peer = ask_peer(python, str(path), engine)
                ours = in_own_process(
                    "benchmarks.peer",
                    {"trace": str(trace), "limit": limit, "settings": settings},
                )
                peer_rate = peer["requests"] / peer["cpu_s"]
                print(
                    f"{label:42} {ours.requests:9,} {peer['cpu_s']:12.2f} {peer_rate:10,.0f} "
                    f"{ours.cpu_s:12.2f} {ours.requests_per_s:10,.0f} "
                    f"{ours.requests_per_s / peer_rate:10.2f}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="where the peer is installed")
    parser.add_argument("--azure", type=Path, default=AZURE, help="Azure 2023 conversation CSV")
    parser.add_argument("--mooncake", type=Path, default=MOONCAKE, help="Mooncake conversation")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--peer-case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        run_ours(**json.loads(arguments.case))
        return
    if arguments.peer_case:
        print(json.dumps(run_peer(**json.loads(arguments.peer_case))))
        return
    why = why_not(arguments.python)
    if why is not None:
        sys.exit(INSTALL.format(python=arguments.python, why=why))
    share = 10 if arguments.quick else 1
    traces = {
        "Azure": (arguments.azure, 19_366 // share),
        "Mooncake": (arguments.mooncake, 12_031 // share),
    }
    missing = [str(path) for path, _ in traces.values() if not path.exists()]
    if missing:
        sys.exit(f"no trace at {' or '.join(missing)}; `twin trace fetch` gets them")
    compare(arguments.python, traces)


if __name__ == "__main__":
    main()
