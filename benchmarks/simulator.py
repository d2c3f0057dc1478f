"""How fast the simulator is, and how much memory it takes.

    python -m benchmarks.simulator [--azure PATH] [--mooncake PATH] [--quick]

Prints, for each case, requests and steps per CPU-second (from reading the trace to the written run
folder; the interpreter's start and imports apart) and the peak memory, beside the goal where there is
one. Each case runs in a process of its own. Where the traces are not given and not found beside the
repository, workloads generated with their statistics stand in, and are named so.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cases import (
    AZURE,
    HEADER,
    MOONCAKE,
    Figures,
    in_own_process,
    print_figures,
    timed,
    warm_up,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REQUESTS, STEPS = ("requests",), ("requests", "steps")
GOALS = {  # requests per CPU-second
    ("Azure", REQUESTS): 10_000,
    ("Azure", STEPS): 5_000,
    ("Mooncake", REQUESTS): 2_500,
    ("Mooncake", STEPS): 1_500,
}
POLICIES: list[tuple[str, list[str]]] = [
    (f"{order}, page size {page}", [f"policy.order={order}", f"policy.page_size={page}"])
    for order, page in product(("fcfs", "lpm"), (1, 16))
]


def steady_decode(
    requests: int, steps: int, settings: Sequence[str], records: Sequence[str], *, leap: bool
) -> Figures:
    """Decode steps of a full batch in which nothing changes."""
    from simulator import simulate
    from traces import SyntheticTokens, TraceRequest, Workload

    def run(out: Path) -> Mapping[str, int]:
        work = Workload(
            "steady",
            [
                TraceRequest(
                    f"r{i:04}", 0, SyntheticTokens(i, 512), SyntheticTokens(10**6 + i, steps)
                )
                for i in range(requests)
            ],
        )
        done = simulate(work, settings=settings, records=records, leap=leap, out=out)
        counts: dict[str, int] = done.manifest["counts"]
        return counts

    return timed(run)


def replay(
    trace: str, limit: int | None, settings: Sequence[str], records: Sequence[str]
) -> Figures:
    """A trace, from its file to the written run folder."""
    from simulator import simulate

    def run(out: Path) -> Mapping[str, int]:
        done = simulate(trace, settings=settings, limit=limit, records=records, out=out)
        counts: dict[str, int] = done.manifest["counts"]
        return counts

    return timed(run)


def case(text: str) -> None:
    """Run one case, described in JSON, and print its figures as JSON."""
    task: dict[str, Any] = json.loads(text)
    kind = task.pop("kind")
    warm_up(task["settings"], task["records"])
    if kind == "replay":
        import traces.generate.stream  # noqa: F401 - a preset's name may stand for a trace

        print_figures(replay(**task))
    else:
        print_figures(steady_decode(**task))


def measure(name: str, task: Mapping[str, Any], goal: int | None = None) -> Figures:
    """Run a case in a process of its own and print its line."""
    figures = in_own_process("benchmarks.simulator", task)
    note = ""
    if goal is not None:
        note = f"goal {goal:,}: {figures.requests_per_s / goal:.2f}x"
    print(figures.line(name, note), flush=True)
    return figures


def measure_traces(azure: str, mooncake: str, share: int) -> None:
    """The recorded traces under several policies, without and with step rows."""
    for records in (REQUESTS, STEPS):
        print(f"\nrecords: {', '.join(records)}")
        for name, trace, total in (("Azure", azure, 19_366), ("Mooncake", mooncake, 12_031)):
            label = name if Path(trace).exists() else f"{name} (generated)"
            task = {"kind": "replay", "trace": trace, "limit": total // share, "records": records}
            for policy, settings in POLICIES:
                goal = GOALS[name, records]
                measure(f"{label}, {policy}", {**task, "settings": settings}, goal)
            measure(f"{label}, preset vllm", {**task, "settings": ["preset=vllm"]})


def measure_steady() -> None:
    """Leaping beside walking where leaping has most to give."""
    for requests, settings in ((1, []), (64, []), (256, []), (64, ["preset=vllm"])):
        steps = min(20_000, 640_000 // requests)  # what the KV pool holds
        for records in (REQUESTS, STEPS):
            task = {
                "kind": "steady",
                "requests": requests,
                "steps": steps,
                "settings": settings,
                "records": records,
            }
            what = f"steady decode {requests}{' vllm' if settings else ''}, {'+'.join(records)}"
            walked = measure(f"{what}, walked", {**task, "leap": False})
            leapt = measure(f"{what}, leapt", {**task, "leap": True})
            print(f"{'':52} leaping is {leapt.steps_per_s / walked.steps_per_s:.0f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--azure", type=Path, default=AZURE, help="Azure 2023 conversation CSV")
    parser.add_argument("--mooncake", type=Path, default=MOONCAKE, help="Mooncake conversation")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        case(arguments.case)
        return
    share = 10 if arguments.quick else 1
    azure = str(arguments.azure) if arguments.azure.exists() else "azure-conversation"
    mooncake = str(arguments.mooncake) if arguments.mooncake.exists() else "mooncake-conversation"
    print("Qwen3-8B on one H200, roofline. Start: the interpreter, imports and warming up.\n")
    print(HEADER)
    measure_steady()
    measure_traces(azure, mooncake, share)


if __name__ == "__main__":
    main()
