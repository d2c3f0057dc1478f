"""One million requests, generated and simulated as a stream: time, memory, and how both grow.

    python -m benchmarks.million [--most N] [--quick]

For requests of Azure's and of Mooncake's lengths, at rates that one GPU keeps up with (or what waits
would grow with the number of requests, too), each number of requests in a process of its own:
requests per CPU-second from the first request generated to the written run folder, and the peak
memory. Requests are made as they arrive and forgotten when they end, so that memory grows with what
is recorded alone. Prints the exponent with which the time grows.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING

from benchmarks.cases import HEADER, Figures, in_own_process, print_figures, timed, warm_up

if TYPE_CHECKING:
    from pathlib import Path

MOST_EXPONENT, MOST_MB = 1.05, 2_000
RATES = {"azure-conversation": 5.5, "mooncake-conversation": 1.2}  # requests per second


def simulate_stream(preset: str, requests: int) -> Figures:
    """Generate and simulate so many requests, none of them kept."""
    from simulator import simulate
    from traces.generate import generate_stream

    def run(out: Path) -> dict[str, int]:
        stream = generate_stream(preset, n=requests, rate=RATES[preset])
        counts: dict[str, int] = simulate(stream, out=out, records=("requests",)).manifest["counts"]
        return counts

    return timed(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=1_000_000, help="most requests (1,000,000)")
    parser.add_argument("--quick", action="store_true", help="up to a hundredth of that")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        warm_up((), ("requests",))
        print_figures(simulate_stream(**json.loads(arguments.case)))
        return
    most = arguments.most // (100 if arguments.quick else 1)
    sizes = [most // 100, most // 10, most]
    print("Qwen3-8B on one H200, roofline, fcfs, page size 1, request records.\n")
    print(HEADER)
    for preset, rate in RATES.items():
        took = []
        for requests in sizes:
            case = {"preset": preset, "requests": requests}
            figures = in_own_process("benchmarks.million", case)
            print(figures.line(f"{preset}, {requests:,} at {rate}/s"), flush=True)
            took.append(figures)
        exponent = math.log(took[-1].cpu_s / took[0].cpu_s) / math.log(sizes[-1] / sizes[0])
        print(
            f"{'':52} time grows as requests^{exponent:.3f} (goal {MOST_EXPONENT}), "
            f"peak {took[-1].peak_mb:,.0f} MB (goal {MOST_MB:,})"
        )


if __name__ == "__main__":
    main()
