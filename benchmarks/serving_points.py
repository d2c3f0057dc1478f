"""Measured serving points of H100 and H200, simulated from tables of kernels by a closed-loop client.

    python -m benchmarks.serving_points [--data DIR] [--only TEXT] [--every N] [--each] [--settings]

DIR holds AIConfigurator's operator tables (`<gpu>/<family>/...`) and `silicon_sample.csv.gz`, serving
points measured with SGLang and vLLM (https://github.com/ai-dynamo/aiconfigurator, Apache-2.0): TTFT and
TPOT of so many requests at once, each sent when another has ended. Of these, one model replica in mode
`agg` of Llama-3.1-8B, Llama-3.1-70B and Qwen3-32B over 1 to 8 GPUs.

A row says model, GPU, engine, precision, split, lengths and concurrency, and where it is from. What it
does not say follows from that, never from what was measured:

- *rows of InferenceMAX's grid* (public, with its commands): lengths are drawn from 0.8 to 1 times those
  named, there are as many places in the engine as clients, nothing is cached, the host is overlapped;
- *others*: lengths are exact, the engine has its defaults. vLLM's host was not overlapped before 0.14.

The KV capacity is derived from the GPU's memory, host times are as assumed (`simulator.host`), each client
sends `WAVES` requests, all begin at once. Nothing is fitted to the rows. `--settings` tells what the errors
would be were some of these otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.model_shape import ModelShape
from simulator.devices import Device
from simulator.operators.from_tables import condense
from simulator.operators.shards import Parallel
from simulator.operators.tables import Tables
from simulator.simulation import simulate
from simulator.validation.memory import kv_tokens
from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    import pandas as pd

DATA = Path(__file__).resolve().parents[2] / "shared" / "gpu" / "aic"
MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
    "Qwen/Qwen3-32B": "Qwen/Qwen3-32B",
}
GPUS = {"h100_sxm": "h100", "h200_sxm": "h200"}
GOALS = {"tpot": 0.10, "ttft": 0.25}
WAVES = 10
# https://github.com/InferenceMAX/InferenceMAX: (input, output) lengths, concurrencies, range of lengths
GRID = {(1024, 1024), (1024, 8192), (8192, 1024)}, {4, 8, 16, 32, 64}
GRID_SPREAD = 0.2
OVERLAPPED_SINCE = (0, 14)  # vLLM, by default
MEMORY_SHARE = {"sglang": 0.85, "vllm": 0.9}


@dataclass(frozen=True, slots=True)
class Point:
    """A measured serving point; times in milliseconds."""

    name: str
    model: str
    gpu: str
    engine: str
    gemm: str
    tp: int
    prompt: int
    output: int
    concurrency: int
    grid: bool
    overlap: str
    ttft: float
    tpot: float


@dataclass(frozen=True, slots=True)
class Otherwise:
    """What is assumed; None as the point says."""

    name: str = "as assumed"
    capacity: float = 1.0
    overlap: str | None = None
    waves: int = WAVES
    spread: float | None = None
    host: float = 1.0
    kv_dtype: str = "bfloat16"


def points(data: Path) -> list[Point]:
    """The rows."""
    import pandas as pd

    table = pd.read_csv(data / "silicon_sample.csv.gz")
    chosen = table[
        (table["mode"] == "agg")
        & table["backend"].isin(MEMORY_SHARE)
        & table["system"].isin(GPUS)
        & table["model_path"].isin(MODELS)
    ]
    return [_point(row) for _, row in chosen.iterrows()]


def _point(row: pd.Series[Any]) -> Point:
    import pandas as pd

    if any(row[name] > 1 for name in ("pp_size", "attention_dp_size")):  # empty where not split
        raise ValueError(f"{row['id']}: split over a pipeline or data-parallel attention")
    quantised, version = row["gemm_quant_mode"], row["backend_version"]
    prompt, output, concurrency = (int(row[name]) for name in ("isl", "osl", "batch_size"))
    lengths, places = GRID
    own = "aic-auto-gap-analysis" in str(row["silicon_data_source"])  # AIConfigurator's own runs
    grid = not own and (prompt, output) in lengths and concurrency in places
    late = pd.isna(version) or _numbers(str(version)) >= OVERLAPPED_SINCE
    return Point(
        name=str(row["id"]),
        model=MODELS[str(row["model_path"])],
        gpu=str(row["system"]),
        engine=str(row["backend"]),
        gemm="bfloat16" if pd.isna(quantised) else str(quantised),
        tp=int(row["tp_size"]),
        prompt=prompt,
        output=output,
        concurrency=concurrency,
        grid=grid,
        overlap="overlapped" if grid or row["backend"] == "sglang" or late else "serial",
        ttft=float(row["silicon_ttft_ms"]),
        tpot=float(row["silicon_tpot_ms"]),
    )


def _numbers(version: str) -> tuple[int, int]:
    first, second, *_ = version.split(".")
    return int(first), int(second)


@cache
def _profile(
    data: Path, folder: Path, model: str, gpu: str, engine: str, gemm: str, tp: int, kv: str
) -> Path:
    """A profile of operators, condensed once for all points that share it."""
    tables = Tables.open(gpu, engine, root=data)
    parallel = Parallel(tp=tp)
    made = condense(tables, ModelShape.load(model), parallel, weight_dtype=gemm, kv_dtype=kv)
    name = "-".join((model.rsplit("/", 1)[-1], gpu, engine, gemm, str(tp), kv))
    path = folder / f"{name}.json"
    made.save(path)
    return path


def run(point: Point, data: Path, folder: Path, how: Otherwise) -> tuple[float, float]:
    """Simulated mean TTFT and TPOT, milliseconds."""
    shape = ModelShape.load(point.model)
    fp8 = point.gemm != "bfloat16"
    kv = how.kv_dtype if fp8 else "bfloat16"
    profile = _profile(data, folder, point.model, point.gpu, point.engine, point.gemm, point.tp, kv)
    device = Device.load(GPUS[point.gpu])
    tokens = _capacity(shape, device, point, fp8=fp8)
    config: dict[str, Any] = {
        "preset": point.engine,
        "model": {"path": point.model, "weight_dtype": "fp8" if fp8 else "auto"},
        "device": {"name": GPUS[point.gpu]},
        "kv": {"capacity_tokens": int(tokens * how.capacity)},
        "latency": {"model": "operators", "profile": str(profile)},
        "workload": {"loop": "closed", "concurrency": point.concurrency},
    }
    if kv == "fp8":
        config["model"]["kv_dtype"] = "fp8"
    config["policy"] = {"overlap": how.overlap or point.overlap}
    if point.grid:
        config["policy"] |= {"cache": "none", "max_running_requests": point.concurrency}
    if how.host != 1.0:
        config["host"] = _host(how.host)
    found = simulate(_workload(point, how), config, records=("requests",)).summary()
    assert found.ttft_ms is not None
    assert found.tpot_ms is not None
    return found.ttft_ms.mean, found.tpot_ms.mean


def _capacity(shape: ModelShape, device: Device, point: Point, *, fp8: bool) -> int:
    parallel, share = Parallel(tp=point.tp), MEMORY_SHARE[point.engine]
    tokens = kv_tokens(shape, device, parallel, share, "fp8" if fp8 else "auto")
    return max(tokens, 2 * (point.prompt + point.output))


def _host(factor: float) -> dict[str, int]:
    from simulator.host import HostOptions

    plain = HostOptions().model_dump(exclude={"preset", "profile"})
    return {name: round(value * factor) for name, value in plain.items()}


def _workload(point: Point, how: Otherwise) -> Workload:
    rng = np.random.default_rng(0)
    spread = how.spread if how.spread is not None else GRID_SPREAD if point.grid else 0.0

    def length(most: int) -> int:
        return int(rng.integers(max(1, int(most * (1 - spread))), most + 1)) if spread else most

    requests = [
        TraceRequest(
            f"r{i:06d}",
            0,
            SyntheticTokens(2 * i, length(point.prompt)),
            SyntheticTokens(2 * i + 1, length(point.output)),
        )
        for i in range(point.concurrency * how.waves)
    ]
    return Workload(point.name, requests)


OTHERS = (
    Otherwise("KV capacity x 0.8", capacity=0.8),
    Otherwise("KV capacity x 1.2", capacity=1.2),
    Otherwise("host overlapped", overlap="overlapped"),
    Otherwise("host not overlapped", overlap="serial"),
    Otherwise("host free", host=0.0),
    Otherwise("host twice as slow", host=2.0),
    Otherwise("5 requests a client", waves=5),
    Otherwise("all lengths exact", spread=0.0),
    Otherwise("all lengths from 0.8 to 1", spread=GRID_SPREAD),
)


def main() -> None:
    """Print the errors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", default="", help="points whose model, GPU and engine hold this")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th point only")
    parser.add_argument("--each", action="store_true", help="a line per point")
    parser.add_argument("--settings", action="store_true", help="with assumptions otherwise")
    given = parser.parse_args()
    if not (given.data / "silicon_sample.csv.gz").is_file():
        parser.error(
            f"{given.data} holds no silicon_sample.csv.gz: name AIConfigurator's data with --data"
        )
    chosen = [p for p in points(given.data) if given.only in f"{p.model} {p.gpu} {p.engine}"]
    chosen = chosen[:: given.every]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        errors = _errors(chosen, given.data, Path(folder), Otherwise(), each=given.each)
        print(f"{len(chosen)} points in {time.perf_counter() - began:.0f} s\n")
        _table(chosen, errors)
        if given.settings:
            print(f"\n{'median absolute error':28}{'TPOT':>8}{'TTFT':>8}")
            for how in (Otherwise(), *OTHERS):
                found = _errors(chosen, given.data, Path(folder), how, each=False)
                middle = np.median(np.abs(found), axis=0)
                print(f"{how.name:28}{middle[0]:8.1%}{middle[1]:8.1%}", flush=True)


def _errors(
    chosen: list[Point], data: Path, folder: Path, how: Otherwise, *, each: bool
) -> np.ndarray:
    """Relative errors of TPOT and TTFT, shape (points, 2)."""
    found = []
    for point in chosen:
        ttft, tpot = run(point, data, folder, how)
        found.append((tpot / point.tpot - 1, ttft / point.ttft - 1))
        if each:
            print(
                f"{point.model.rsplit('/', 1)[-1]:14}{point.gpu:9}{point.engine:7}{point.gemm:10}"
                f"tp{point.tp} {point.prompt:5}/{point.output:<5}x{point.concurrency:<4}"
                f"TPOT {point.tpot:7.2f} {tpot:7.2f} {found[-1][0]:+7.1%}   "
                f"TTFT {point.ttft:8.1f} {ttft:8.1f} {found[-1][1]:+7.1%}",
                flush=True,
            )
    return np.array(found)


def _table(chosen: list[Point], errors: np.ndarray) -> None:
    print(f"{'':34}{'points':>7}{'TPOT median':>13}{'mean':>8}{'TTFT median':>13}{'mean':>8}")
    groups: dict[str, list[int]] = {"all": list(range(len(chosen)))}
    for i, p in enumerate(chosen):
        name = f"{p.model.rsplit('/', 1)[-1]} {p.gpu} {p.engine} {p.gemm}"
        groups.setdefault(name, []).append(i)
        groups.setdefault(f"tp {p.tp}", []).append(i)
    for name, rows in groups.items():
        part = np.abs(errors[rows])
        middle, mean, signed = np.median(part, axis=0), part.mean(axis=0), errors[rows]
        signs = np.median(signed, axis=0)
        print(
            f"{name:34}{len(rows):7}{middle[0]:13.1%}{mean[0]:8.1%}{middle[1]:13.1%}{mean[1]:8.1%}"
            f"   signed {signs[0]:+.1%} {signs[1]:+.1%}"
        )
    print(f"goals: median TPOT {GOALS['tpot']:.0%}, median TTFT {GOALS['ttft']:.0%}")


if __name__ == "__main__":
    main()
