"""How well the simulator foretells the runtime: calibrated from one trace and policy, asked for others.

    python -m benchmarks.own_runtime [--minutes N] [--clock wall|cpu ...] [--runs DIR]

A real model (SmolLM2 on the CPU) serves trace A under fcfs, from which the simulator's step and host times
are calibrated, and trace B, other prompts at another rate, under fcfs and under lpm, which it foretells.
Each is served three times, in turns, so that what else the machine does falls on all alike. Told are the
real runs' own spread, the error against it, and whether fcfs and lpm differ the same way. Runs that the
folder holds already are not served again.

All of it is done on two clocks: the wall's, which other programs on the machine make run faster or slower
for the model, and the CPU time that the process was given (`runtime.clock: cpu`), which they leave alone
but for caches. The machine's load, and the CPU time that runs got of their wall time, stand beside them.
It says nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.weights.load import LoadedModel
    from simulator.validation.answer import Answer
    from simulator.validation.budget import Budget
    from simulator.validation.compare import Question
    from simulator.validation.validate import Validation
    from traces import Workload
    from traces.real_runs.base import RealRun

ROOT = Path(__file__).resolve().parents[1]
GGUF = ROOT / ".weights" / "SmolLM2-135M-Instruct.Q4_1.gguf"
RESULT = ROOT / "benchmarks" / "results" / "own_runtime_cpu.json"
SHAPE = "HuggingFaceTB/SmolLM2-135M"
VOCABULARY = 49_000
ROUNDS = 3
CLOCKS = ("cpu", "wall")
GOAL = 0.1
"""Of the median end-to-end time, unless real runs differ by more."""
CASES = (("a", "fcfs"), ("b", "fcfs"), ("b", "lpm"))
CONFIG: dict[str, Any] = {
    "model": {"path": str(GGUF), "weight_dtype": "bf16"},
    "kv": {"capacity_tokens": 2560},
    "policy": {"max_running_requests": 8},
    "runtime": {"device": "cpu", "clock": "wall"},
}
SHOWN = [(metric, name) for metric in ("ttft", "tpot", "e2e") for name in ("p50", "mean", "p90")]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A trace: prompts that begin with one of several prefixes, Poisson arrivals.

    Attributes:
        seed: of all that is drawn.
        a_minute: requests for each minute that its three runs are to take.
        rate: requests per second.
        prefixes: how many there are.
        prefix, own, output: tokens, from and up to.
    """

    seed: int
    a_minute: float
    rate: float
    prefixes: int
    prefix: tuple[int, int]
    own: tuple[int, int]
    output: tuple[int, int]

    def make(self, minutes: float) -> Workload:
        """The trace, for so many minutes of measurement in all."""
        from traces import SyntheticTokens, TraceRequest, Workload
        from traces.tokens import ExplicitTokens

        rng = np.random.default_rng(self.seed)

        def drawn(length: tuple[int, int]) -> Any:
            return rng.integers(0, VOCABULARY, rng.integers(length[0], length[1] + 1))

        prefixes = [drawn(self.prefix) for _ in range(self.prefixes)]
        requests, at = [], 0.0
        for i in range(max(12, round(self.a_minute * minutes))):
            ids = np.concatenate([prefixes[rng.integers(self.prefixes)], drawn(self.own)])
            output = SyntheticTokens(i, int(rng.integers(self.output[0], self.output[1] + 1)))
            requests.append(TraceRequest(f"r{i:03}", round(at * 1e9), ExplicitTokens(ids), output))
            at += rng.exponential(1 / self.rate)
        return Workload(f"seed-{self.seed}", requests)


RECIPES = {
    "a": Recipe(1, 7.5, 4.0, 6, (96, 256), (16, 144), (16, 48)),
    "b": Recipe(2, 9.0, 2.5, 12, (128, 256), (24, 144), (16, 64)),
}
WARM_UP = Recipe(3, 0.0, 4.0, 3, (64, 256), (16, 144), (8, 16))


def folder_of(runs: Path, case: tuple[str, str], turn: int) -> Path:
    """Where a run lies."""
    return runs / f"{case[0]}-{case[1]}-{turn}"


def serve(
    work: Workload, order: str, loaded: LoadedModel, out: Path | None, clock: str
) -> dict[str, Any]:
    """Serve a trace for real; what the machine did meanwhile."""
    from runtime import replay

    config = {
        **CONFIG,
        "policy": {**CONFIG["policy"], "order": order},
        "runtime": {**CONFIG["runtime"], "clock": clock},
    }
    before, cpu, wall = os.getloadavg()[0], time.process_time(), time.monotonic()
    run = replay(work, config, loaded=loaded, out=out, overwrite=True)
    cpu_s, wall_s = time.process_time() - cpu, time.monotonic() - wall
    busy_s = run.manifest["device_busy_ns"] / 1e9
    return {
        "wall_s": round(wall_s, 2),
        "busy_s": round(busy_s, 2),
        "cpu_s": round(cpu_s, 2),
        "load_before": round(before, 2),
        "load_after": round(os.getloadavg()[0], 2),
    }


def record(runs: Path, minutes: float, clock: str) -> None:
    """Serve what the folder does not hold, in turns whose order alternates."""
    todo = []
    for turn in range(ROUNDS):
        cases = CASES if turn % 2 == 0 else CASES[::-1]
        todo += [(case, turn) for case in cases if not _machine(runs, case, turn).exists()]
    if not todo:
        return
    import torch

    from runtime import load_model

    torch.set_num_threads(1)  # one for steps, one for the scheduler
    path = CONFIG["model"]["path"]
    loaded = load_model(path, dtype=CONFIG["model"]["weight_dtype"])
    serve(WARM_UP.make(minutes), "fcfs", loaded, None, clock)
    runs.mkdir(parents=True, exist_ok=True)
    for case, turn in todo:
        work, out = RECIPES[case[0]].make(minutes), folder_of(runs, case, turn)
        found = serve(work, case[1], loaded, out, clock)
        found["minutes"] = minutes
        _machine(runs, case, turn).write_text(json.dumps(found))
        print(f"served {clock} {case[0]} {case[1]:4} {turn + 1}: {found}", flush=True)


def _machine(runs: Path, case: tuple[str, str], turn: int) -> Path:
    return runs / f"{case[0]}-{case[1]}-{turn}.json"


def question(profile: Path) -> Question:
    """How a run is simulated: as it was recorded, with a profile."""
    from simulator.validation.compare import Question

    # what the runtime reads in its own way: KV as its weights are, no section about the host
    settings = ("model.kv_dtype=bf16", f"host.profile={profile}")
    return Question(settings=settings, profile=str(profile), model=SHAPE)


def foretell(runs: Path, calibrated_from: Sequence[int], keep: Path) -> tuple[Any, dict[str, Any]]:
    """The profile from runs of trace A, and trace B foretold with it under each policy."""
    from simulator.calibration.fitting import calibrate
    from simulator.validation.validate import validate
    from traces import load_run
    from traces.real_runs.our_run import read_our_run

    made = calibrate([load_run(folder_of(runs, CASES[0], i)) for i in calibrated_from])
    profile = keep / "profile.json"
    made.profile.save(profile)
    found = {}
    for case in CASES[1:]:
        real = [read_our_run(folder_of(runs, case, i)) for i in range(ROUNDS)]
        causes = case[1] == "fcfs" and len(calibrated_from) > 1
        found[case[1]] = validate(real, question(profile), keep, causes=causes)
    return made.profile, found


def differences(found: dict[str, Validation]) -> list[list[Answer]]:
    """Of each turn, lpm less fcfs, real and simulated."""
    from simulator.validation.answer import answers

    def pair(name: str, turn: int) -> tuple[RealRun, RealRun]:
        one = found[name].repeats[turn]
        return one.real, one.simulated.run

    made = []
    for turn in range(ROUNDS):
        (real, simulated), (other, other_simulated) = pair("fcfs", turn), pair("lpm", turn)
        made.append(answers((real, other), (simulated, other_simulated)))
    return made


def machine() -> dict[str, Any]:
    """What the runs were made on."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "torch_threads": 1,
    }


def spreads_table(found: dict[str, Validation]) -> list[dict[str, Any]]:
    """Of each policy and statistic: real runs, their spread, the simulated value, the error."""
    rows = []
    for order, one in found.items():
        by_name = {(s.metric, s.statistic): s for s in one.spreads}
        for metric, statistic in SHOWN:
            spread = by_name[metric, statistic]
            real = [pair.figures.of(metric, statistic).real for pair in one.repeats]
            rows.append({"order": order, "real_ms": real} | spread.to_dict())
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"\n{'':16} {'real runs, ms':>26} {'mean':>8} {'spread':>7} {'simulated':>10} {'error':>7}"
    )
    for row in rows:
        real = " ".join(f"{ms:8.1f}" for ms in row["real_ms"])
        name = f"{row['order']:4} {row['metric']:4} {row['statistic']:4}"
        print(
            f"{name:16} {real:>26} {row['mean']:8.1f} {row['spread']:7.1%} {row['simulated']:10.1f} "
            f"{row['error']:+7.1%}{'  within' if row['within'] else ''}"
        )


def show_budget(budget: Budget) -> None:
    print("\nerror of the mean under fcfs, first turn, with a measured part put in:")
    parts = [("as foretold", budget.base), *((p.name, p.errors) for p in budget.parts if p.known)]
    for name, errors in parts:
        print(f"  {name:16} {'   '.join(f'{metric} {e:+.1%}' for metric, e in errors.items())}")


def show_differences(turns: list[list[Answer]]) -> dict[str, bool | None]:
    """Print lpm less fcfs; whether its sign holds, None where the real turns do not agree on one."""
    print("\nlpm less fcfs, mean ms over the same requests, turn by turn")
    held: dict[str, bool | None] = {}
    for made in zip(*turns, strict=True):
        real = [answer.real.mean_ms for answer in made]
        simulated = [answer.simulated.mean_ms for answer in made]
        agree = min(real) > 0 or max(real) < 0
        held[made[0].metric] = all(ms * real[0] > 0 for ms in simulated) if agree else None
        print(
            f"  {made[0].metric:4} real {' '.join(f'{ms:+9.1f}' for ms in real)}   "
            f"simulated {np.mean(simulated):+9.1f}"
        )
    return held


def ask(runs: Path) -> dict[str, Any]:
    """What came of the runs on one clock: printed, and as plain values."""
    with tempfile.TemporaryDirectory() as folder:
        keep = Path(folder)
        profile, found = foretell(runs, range(ROUNDS), keep)
        alone = [foretell(runs, [i], keep)[1] for i in range(ROUNDS)]
    print(f"calibrated from {profile.steps:,} steps of trace A under fcfs")
    for name, e in profile.errors.items():
        print(f"  {name:28} mean {e.mean:6.1%}   summed {e.total:+6.1%}")
    rows, turns = spreads_table(found), differences(found)
    show(rows)
    signs = show_differences(turns)
    print("\nmedian end-to-end error, each turn's B from the same turn's A alone:")
    each = {}
    for order in found:
        pairs = [alone[i][order].repeats[i].figures.of("e2e", "p50") for i in range(ROUNDS)]
        each[order] = [pair.error for pair in pairs]
        print(f"  {order:4} {'  '.join(f'{error:+.1%}' for error in each[order])}")
    budget = found["fcfs"].budget
    assert budget is not None
    show_budget(budget)
    medians = [r for r in rows if (r["metric"], r["statistic"]) == ("e2e", "p50")]
    held = {
        "median e2e within 10 %": [r["order"] for r in medians if abs(r["error"]) <= GOAL],
        "median e2e within the real runs' range": [r["order"] for r in medians if r["within"]],
        "sign of lpm less fcfs": [metric for metric, same in signs.items() if same],
        "of another sign": [metric for metric, same in signs.items() if same is False],
    }
    print()
    for what, value in held.items():
        print(f"{what}: {', '.join(value) or 'none'}")
    machine_was = {
        f"{case[0]}-{case[1]}-{turn}": json.loads(_machine(runs, case, turn).read_text())
        for case in CASES
        for turn in range(ROUNDS)
    }
    loads = [was["load_after"] for was in machine_was.values()]
    shares = [was["cpu_s"] / was["wall_s"] for was in machine_was.values()]
    print(
        f"load average {min(loads):.1f} to {max(loads):.1f} on {os.cpu_count()} cores; runs got "
        f"{min(shares):.0%} to {max(shares):.0%} of one core"
    )
    return {
        "runs": machine_was,
        "calibration": {name: e.model_dump() for name, e in profile.errors.items()},
        "figures": rows,
        "lpm_less_fcfs": [[answer.to_dict() for answer in made] for made in turns],
        "median_e2e_error_from_the_same_turn": each,
        "budget_fcfs": budget.to_dict(),
        "held": held,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=4.0, help="of serving, about, each clock")
    parser.add_argument("--clock", choices=CLOCKS, nargs="+", default=CLOCKS)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "own-runtime")
    given = parser.parse_args()
    if not GGUF.is_file():
        parser.error(f"{GGUF} is not there; `make weights` fetches it")
    result: dict[str, Any] = {"machine": machine()}
    for clock in given.clock:
        record(given.runs / clock, given.minutes, clock)
        print(f"\n=== {clock} clock ===")
        result[clock] = ask(given.runs / clock)
    RESULT.write_text(json.dumps(result, indent=1, default=float) + "\n")
    print(f"wrote {RESULT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
