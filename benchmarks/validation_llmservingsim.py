"""vLLM 0.19 on two GPUs, request by request, simulated from operator profiles of the same machines.

    python -m benchmarks.validation_llmservingsim [--data DIR]

DIR holds LLMServingSim's data (https://github.com/casys-kaist/LLMServingSim): `bench/examples`, `profiler`
and `workloads`. Both runs are Llama-3.1-8B in bfloat16 under the preset `vllm`, every setting from the
runs' files; what that of the RTX PRO 6000 lacks is taken from that of the RTX 4090, its KV capacity from
0.9 of its memory. Nothing is fitted to either run.

Prints each mean and 99th percentile with its error and goal, LLMServingSim's own errors beside it, and
what becomes of the errors where a setting that was assumed is another.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from simulator.validation.compare import Compared, Question, compare
from simulator.validation.figures import Figures, figures
from traces.real_runs import RealRun, read_real_run

DATA = Path(__file__).resolve().parents[2] / "shared" / "gpu" / "llmservingsim"
MODEL = "Llama-3.1-8B"
GPUS = ("RTXPRO6000", "RTX4090")
GOALS = {
    ("ttft", "mean"): 0.03,
    ("tpot", "mean"): 0.01,
    ("e2e", "mean"): 0.015,
    **{(metric, "p99"): 0.03 for metric in ("ttft", "tpot", "e2e")},
}
# of the mean and of the 99th percentile, from validation/summary.txt in the same data
PEER = {
    "RTXPRO6000": {
        ("ttft", "mean"): -0.040,
        ("tpot", "mean"): -0.010,
        ("e2e", "mean"): -0.018,
        ("ttft", "p99"): -0.020,
        ("tpot", "p99"): 0.006,
        ("e2e", "p99"): -0.016,
    },
    "RTX4090": {
        ("ttft", "mean"): 0.006,
        ("tpot", "mean"): 0.002,
        ("e2e", "mean"): 0.005,
        ("ttft", "p99"): 0.003,
        ("tpot", "p99"): 0.009,
        ("e2e", "p99"): 0.004,
    },
}
OTHERWISE: dict[str, tuple[str, ...]] = {
    "context limit 4,864": ("policy.context_limit=4864",),
    "host not overlapped": ("policy.overlap=serial",),
    "no prefix cache": ("policy.cache=none",),
    "host free": tuple(
        f"host.{phase}_ns=0"
        for phase in (
            *(f"{name}_fixed" for name in ("receive", "schedule", "prepare", "launch")),
            *("collect_fixed", "commit_fixed", "prepare_per_decode_request", "commit_per_row"),
        )
    ),
    "host twice as slow": (
        "host.prepare_fixed_ns=600000",
        "host.launch_fixed_ns=500000",
        "host.prepare_per_decode_request_ns=4000",
        "host.commit_per_row_ns=16000",
    ),
}
CAPACITIES = (0.9, 1.1)


def data_folder(about: str | None) -> Path:
    """The folder of LLMServingSim's data: what the command line says; the program ends without it.

    Args:
        about: the program's docstring, whose first line the help shows.
    """
    parser = argparse.ArgumentParser(description=(about or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=DATA, help="a clone of LLMServingSim")
    folder: Path = parser.parse_args().data
    if not (folder / "bench" / "examples").is_dir():
        parser.error(
            f"{folder} holds no bench/examples: clone https://github.com/casys-kaist/LLMServingSim "
            "and name its folder with --data"
        )
    return folder


def main() -> None:
    """Print the tables."""
    data = data_folder(__doc__)
    runs = {gpu: read_real_run(data / "bench" / "examples" / gpu / MODEL) for gpu in GPUS}
    with tempfile.TemporaryDirectory() as folder:
        for gpu, run in runs.items():
            _one(gpu, run, runs[GPUS[1]], data, Path(folder) / f"{gpu}.json")


def _one(gpu: str, run: RealRun, other: RealRun, data: Path, keep: Path) -> None:
    profile = data / "profiler" / "perf" / gpu / "meta-llama" / MODEL / "bf16"
    like = None if other is run else other
    asked = Question(profile=str(profile), like=like)
    made = compare(run, asked, keep)
    print(f"\n{gpu}, {MODEL}, {made.figures.requests} requests\n")
    print(f"{'':12}{'real':>12}{'simulated':>12}{'error':>9}{'goal':>8}{'LLMServingSim':>15}")
    for (metric, statistic), goal in GOALS.items():
        row = made.figures.of(metric, statistic)
        peer = PEER[gpu][metric, statistic]
        kept = "" if abs(row.error) <= goal else "  missed"
        print(
            f"{row.label:12}{row.real:12,.2f}{row.simulated:12,.2f}{row.error:+9.2%}{goal:8.1%}"
            f"{peer:+15.1%}{kept}"
        )
    for assumption in made.assumptions:
        print(f"assumed: {assumption}")
    _lag(made)
    print(f"\n{'mean error, where otherwise':32}{'TTFT':>9}{'TPOT':>9}{'E2E':>9}")
    _line("as above", made.figures)
    _line("arrivals as measured", _again(run, replace(asked, arrivals_as_measured=True), keep))
    for name, settings in OTHERWISE.items():
        _line(name, _again(run, replace(asked, settings=settings), keep))
    capacity = made.simulated.config["kv"]["capacity_tokens"]
    for share in CAPACITIES:
        tokens = f"kv.capacity_tokens={int(capacity * share)}"
        _line(f"KV capacity x {share}", _again(run, replace(asked, settings=(tokens,)), keep))


def _again(run: RealRun, asked: Question, keep: Path) -> Figures:
    made = compare(run, asked, keep)
    return figures(run, made.simulated.run)


def _line(name: str, found: Figures) -> None:
    errors = "".join(f"{found.of(metric).error:+9.2%}" for metric in ("ttft", "tpot", "e2e"))
    print(f"{name:32}{errors}")


def _lag(made: Compared) -> None:
    """Where in the run the real engine falls behind: ends of requests, by the order of their arrival."""
    real = {r.id: r for r in made.real.requests}
    late = [
        (
            (real[r.id].arrival_ns or 0)
            + (real[r.id].e2e_ns or 0)
            - (r.arrival_ns or 0)
            - (r.e2e_ns or 0)
        )
        / 1e9
        for r in made.simulated.run.requests
        if r.id in real
    ]
    print("\nreal end less simulated, s, by tenths of the requests in order of arrival:")
    tenth = max(len(late) // 10, 1)
    print(
        "  "
        + " ".join(f"{sum(late[i : i + tenth]) / tenth:+.2f}" for i in range(0, len(late), tenth))
    )


if __name__ == "__main__":
    main()
