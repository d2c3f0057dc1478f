"""What calibration costs: fitting 500 steps, asking for a step, and the simulator's speed with it.

    python -m benchmarks.calibration [--runs DIR ...] [--predict DIR ...]

Without arguments the recorded steps are the simulator's own, from the roofline with 5 % noise. Times are
CPU-seconds of this process, the best of several. With `--runs`, recorded runs (of the runtime, say) are
calibrated from; each run under `--predict` is then simulated again, with its own config, KV capacity and
requests as they were recorded, and its latencies are laid beside the prediction.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator import LatencyModel, StepShape
    from simulator.calibration.profile import CalibratedProfile
    from traces import Run, Workload
    from traces.tokens import Tokens

STEPS = 500
NOISE = 0.05
SAME = ("max_running_requests", "chunked_prefill_size", "context_limit", "batching_options")
Results = dict[str, float]


def recorded() -> Run:
    """A run of the default config: every step's time as the roofline has it, but for noise."""
    from simulator import LatencyModel, RooflineLatency, simulate

    rng = np.random.default_rng(0)
    exact = RooflineLatency.step_ns

    def noisy(self: RooflineLatency, shape: StepShape) -> int:
        return round(exact(self, shape) * rng.lognormal(0.0, NOISE))

    at_once = RooflineLatency.decode_steps_ns
    RooflineLatency.step_ns = noisy  # type: ignore[method-assign]
    RooflineLatency.decode_steps_ns = LatencyModel.decode_steps_ns  # type: ignore[method-assign]
    try:
        records = ("requests", "steps", "decisions")
        return simulate("azure-conversation", limit=400, speedup=20, records=records)
    finally:
        RooflineLatency.step_ns = exact  # type: ignore[method-assign]
        RooflineLatency.decode_steps_ns = at_once  # type: ignore[method-assign]


def best(work: Callable[[], object], times: int) -> float:
    """CPU-seconds of the fastest of so many."""
    found = []
    for _ in range(times):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def first_steps(run: Run, count: int) -> Run:
    """The run as it was after so many steps."""
    from traces import Run as Records

    tables = {name: run.arrow(name) for name in run.manifest["records"]}
    tables["tokens"] = run.arrow("tokens")
    return Records(run.manifest, tables={**tables, "steps": tables["steps"].slice(0, count)})


def query_us(latency: LatencyModel, *, prefill: bool) -> float:
    """Microseconds of one answer, over shapes that come up in serving."""
    from simulator import StepShape

    rng = np.random.default_rng(1)
    shapes = []
    for _ in range(1000):
        rows = int(rng.integers(1, 100))
        chunk = [(int(rng.integers(1, 4000)), int(rng.integers(0, 4000)))] if prefill else []
        kv = rows * int(rng.integers(1, 3000))
        shapes.append(StepShape(chunk, rows, kv, rows + len(chunk), lambda: np.zeros(0, np.int64)))

    def ask() -> None:
        for shape in shapes:
            latency.step_ns(shape)

    ask()
    return best(ask, 20) / len(shapes) * 1e6


def speeds(profile: CalibratedProfile, work: Workload, times: int, **sections: Any) -> Results:
    """Steps per CPU-second with either model, one after the other in turns."""
    from simulator import simulate

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.json"
        profile.save(path)
        calibrated = {"model": "calibrated", "profile": str(path)}
        sections_of = {"roofline": {"model": "roofline"}, "calibrated": calibrated}
        cpu_s = dict.fromkeys(sections_of, np.inf)
        steps = dict.fromkeys(sections_of, 0)
        for _ in range(times):
            for name, latency in sections_of.items():
                started = time.process_time()
                config = {**sections, "latency": latency}
                run = simulate(work, config, out=Path(folder) / name, overwrite=True)
                cpu_s[name] = min(cpu_s[name], time.process_time() - started)
                steps[name] = run.manifest["counts"]["steps"]
    return {name: steps[name] / cpu_s[name] for name in sections_of}


def workloads() -> dict[str, Workload]:
    """A full batch that decodes on, and a trace with prefill in between."""
    from traces import SyntheticTokens, TraceRequest, Workload
    from traces.generate import generate

    steady = [
        TraceRequest(f"r{i:04}", 0, SyntheticTokens(i, 512), SyntheticTokens(10**6 + i, 20_000))
        for i in range(32)
    ]
    return {
        "steady decode of 32 requests": Workload("steady", steady),
        "azure-conversation, 4,000 requests": generate("azure-conversation", n=4000, rate=10.0),
    }


def again(run: Run, profile: Path) -> Run:
    """A recorded run simulated with a profile: its requests when they came, its config and capacity."""
    from simulator import simulate
    from traces import SyntheticTokens, TraceRequest, Workload
    from traces.tokens import ExplicitTokens

    manifest = run.manifest
    config = {key: dict(manifest["config"][key]) for key in ("policy", "model", "workload")}
    config["policy"] |= {k: manifest["resolved"][k] for k in SAME if k in manifest["resolved"]}
    config["model"] |= {"path": shape_of(manifest["hardware"]["model"]), "kv_dtype": "bf16"}
    config["kv"] = {"capacity_tokens": manifest["kv_capacity_tokens"]}
    config["latency"] = {"model": "calibrated", "profile": str(profile)}
    config["host"] = {"profile": str(profile)}
    config["workload"]["loop"] = "open"
    ids: dict[str, list[int]] = {}
    if run.has("tokens"):
        named = run.arrow("tokens").select(["request_id", "prompt"]).to_pylist()
        ids = {row["request_id"]: row["prompt"] for row in named}
    rows = run.arrow("requests").sort_by("arrival_ns").to_pylist()
    requests = []
    for i, row in enumerate(rows):
        prompt: Tokens = SyntheticTokens(2 * i, row["prompt_tokens"])
        if row["id"] in ids:  # prefixes are shared as they were
            prompt = ExplicitTokens(ids[row["id"]])
        output = SyntheticTokens(2 * i + 1, row["output_tokens"])
        requests.append(TraceRequest(row["id"], row["arrival_ns"], prompt, output))
    return simulate(Workload(run.name, requests), config)


def shape_of(name: str) -> str:
    """The bundled shape of a model that a run names by its folder or file."""
    from policies.model_shape import bundled_models
    from simulator.profile import same_model

    fits = [m for m in bundled_models() if same_model(name, m)]
    return fits[0] if fits else name


def from_runs(runs: list[Path], predicted: list[Path]) -> None:
    """Calibrate from recorded runs, and lay predictions of others beside what they were."""
    from simulator.calibration.fitting import calibrate
    from traces import load_run

    made = calibrate([load_run(path) for path in runs])
    for name, e in made.profile.errors.items():
        print(f"{name:34} mean {e.mean:7.1%}   summed {e.total:+7.1%}   {e.steps:,} steps")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"
        made.profile.save(path)
        for other in predicted:
            real = load_run(other)
            one, two = real.summary(), again(real, path).summary()
            for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
                was, told = getattr(one, metric), getattr(two, metric)
                print(
                    f"{real.name:24} {metric:8} p50 {was.p50:10.1f} predicted {told.p50:10.1f} "
                    f"({told.p50 / was.p50 - 1:+.1%})   mean {told.mean / was.mean - 1:+.1%}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+", help="recorded runs to calibrate from")
    parser.add_argument("--predict", type=Path, nargs="*", default=[], help="runs to predict")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    arguments = parser.parse_args()
    if arguments.runs:
        from_runs(arguments.runs, arguments.predict)
        return
    from simulator.calibration.fitting import calibrate
    from simulator.latency.calibrated import CalibratedLatency

    run = first_steps(recorded(), STEPS)
    made = calibrate([run])
    fit_s = best(lambda: calibrate([run]), 3)
    print(f"fit of {made.profile.steps} steps, hold-outs included: {fit_s:.2f} CPU-s (goal: < 5)")
    for name, e in made.profile.errors.items():
        print(f"  {name:20} mean error {e.mean:6.2%}   summed time {e.total:+6.2%}")
    latency = CalibratedLatency(made.profile)
    for what, prefill in (("decode", False), ("with prefill", True)):
        print(f"a step, {what}: {query_us(latency, prefill=prefill):.2f} us (goal: < 5)")
    print("\nsimulated steps per CPU-second, records written:")
    for name, work in workloads().items():
        some = work.limit(max(32, len(work) // 10)) if arguments.quick else work
        found = speeds(made.profile, some, 5)
        loss = 1 - found["calibrated"] / found["roofline"]
        print(
            f"  {name:36} roofline {found['roofline']:11,.0f}   calibrated {found['calibrated']:11,.0f}"
            f"   loss {loss:+6.1%} (goal: < 15 %)",
            flush=True,
        )


if __name__ == "__main__":
    main()
