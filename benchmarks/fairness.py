"""How fairly two tenants are served when one sends four times as much.

    python -m benchmarks.fairness [--seconds N]

Two simulations of each order and batching, Qwen3-8B on one H200 with at most 32 requests running:
with both tenants sending more than half of what the device can do, and with the smaller one within
its half. Service is counted as the virtual token counter does it: 1 a prompt token, when its request
is first scheduled, and 2 an output token, when it is produced. A tenant is backlogged while a request
of its has arrived and is not scheduled; the service difference is the largest over any interval in
which both are, and its bound is the one of Sheng et al. (OSDI 2024), theorem 4.4.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from traces import Workload

INPUT_PRICE, OUTPUT_PRICE = 1, 2
PROMPT, OUTPUT = (128, 1024), (64, 256)
RUNNING = 32
BATCHINGS = {"prefill-first": "radix", "mixed": "radix", "decode-first": "blocks"}
SCENARIOS = {"both overload": (20, 80), "light within its share": (8, 32)}
SECOND = 10**9


def two_tenants(light: float, heavy: float, seconds: int, seed: int = 0) -> Workload:
    """Poisson arrivals of two tenants at so many requests a second, lengths uniform."""
    from traces import SyntheticTokens, TraceRequest, Workload

    rows = []
    for index, (tenant, rate) in enumerate((("light", light), ("heavy", heavy))):
        draw = np.random.Generator(np.random.PCG64([seed, index]))
        n = round(rate * seconds)
        arrivals = np.sort(draw.integers(0, seconds * SECOND, n)).tolist()
        prompts = draw.integers(PROMPT[0], PROMPT[1], n, endpoint=True).tolist()
        outputs = draw.integers(OUTPUT[0], OUTPUT[1], n, endpoint=True).tolist()
        for i, row in enumerate(zip(arrivals, prompts, outputs, strict=True)):
            rows.append((row[0], tenant, i, row[1], row[2]))
    rows.sort()
    return Workload(
        "two tenants",
        [
            TraceRequest(
                f"{tenant}{i}",
                at,
                SyntheticTokens(2 * key, prompt),
                SyntheticTokens(2 * key + 1, output),
                tenant=tenant,
            )
            for key, (at, tenant, i, prompt, output) in enumerate(rows)
        ],
    )


def service(requests: pd.DataFrame) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """When a tenant was served, ascending, and how much until then, both int64."""
    times = [requests.first_scheduled_ns.to_numpy(np.int64)]
    given = [INPUT_PRICE * requests.prompt_tokens.to_numpy(np.int64)]
    for tokens in requests.token_times_ns:
        times.append(np.asarray(tokens, dtype=np.int64))
        given.append(np.full(len(tokens), OUTPUT_PRICE, dtype=np.int64))
    at, amount = np.concatenate(times), np.concatenate(given)
    order = np.argsort(at, kind="stable")
    return at[order], np.cumsum(amount[order])


def backlogged(requests: pd.DataFrame, at: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether a tenant has a request that has arrived and is not scheduled, at each time."""
    arrived = np.searchsorted(np.sort(requests.arrival_ns.to_numpy(np.int64)), at, "right")
    scheduled = np.sort(requests.first_scheduled_ns.to_numpy(np.int64))
    return arrived > np.searchsorted(scheduled, at, "right")


def figures(requests: pd.DataFrame) -> dict[str, float]:
    """What one run shows. Rates are over the time in which both tenants were backlogged."""
    light, heavy = (requests[requests.tenant == tenant] for tenant in ("light", "heavy"))
    (light_at, light_sum), (heavy_at, heavy_sum) = service(light), service(heavy)
    at = np.unique(np.concatenate([light_at, heavy_at]))
    sums = [
        np.concatenate([[0], total])[np.searchsorted(when, at, "right")]
        for when, total in ((light_at, light_sum), (heavy_at, heavy_sum))
    ]
    both = backlogged(light, at) & backlogged(heavy, at)
    difference = sums[1] - sums[0]
    edges = np.flatnonzero(np.diff(both.astype(np.int8))) + 1
    spans = [s for s in np.split(np.arange(len(at)), edges) if both[s[0]] and len(s) > 1]
    seconds = sum(float(at[s[-1]] - at[s[0]]) for s in spans) / SECOND
    gained = [sum(int(total[s[-1]] - total[s[0]]) for s in spans) for total in sums]
    ttft_s = (light.first_token_ns - light.arrival_ns).to_numpy(np.float64) / SECOND
    end_s = float(requests.finish_ns.max()) / SECOND
    return {
        "both_s": seconds,
        "light": gained[0] / seconds if seconds else 0.0,
        "heavy": gained[1] / seconds if seconds else 0.0,
        "difference": max((int(np.ptp(difference[s])) for s in spans), default=0),
        "ttft_p50_s": float(np.percentile(ttft_s, 50)),
        "ttft_p99_s": float(np.percentile(ttft_s, 99)),
        "tokens_s": float(requests.output_tokens.sum()) / end_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=int, default=30, help="of arrivals (30)")
    seconds: int = parser.parse_args().seconds
    from simulator import simulate

    bound = 2 * max(INPUT_PRICE * PROMPT[1], OUTPUT_PRICE * RUNNING * (PROMPT[1] + OUTPUT[1]))
    print(f"bound on the service difference of backlogged tenants: {bound:,}")
    for scenario, (light, heavy) in SCENARIOS.items():
        workload = two_tenants(light, heavy, seconds)
        print(f"\n{scenario}: {light} and {heavy} requests/s for {seconds} s\n")
        print(
            "| batching | order | both wait, s | light /s | heavy /s | largest difference |", end=""
        )
        print(" TTFT of light p50, p99 | output tokens/s |\n|---|---|--:|--:|--:|--:|--:|--:|")
        for batching, cache in BATCHINGS.items():
            for order in ("fcfs", "fair"):
                policy = {"order": order, "batching": batching, "cache": cache}
                policy |= {"max_running_requests": RUNNING}
                run = simulate(workload, {"policy": policy}, records=("requests", "tokens"))
                f = figures(run.requests)
                print(
                    f"| {batching} | {order} | {f['both_s']:.1f} | {f['light']:,.0f} | "
                    f"{f['heavy']:,.0f} | {f['difference']:,} | {f['ttft_p50_s']:.2f} s, "
                    f"{f['ttft_p99_s']:.2f} s | {f['tokens_s']:,.0f} |"
                )


if __name__ == "__main__":
    main()
