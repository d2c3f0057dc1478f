"""Real runs that are made up: requests of known latencies."""

from __future__ import annotations

from pathlib import Path

from traces.generate import generate
from traces.real_runs.base import RealRequest, RealRun

MS = 1_000_000


def real(latencies_ms: list[tuple[int, int]], name: str = "real") -> RealRun:
    """Requests 10 ms apart of 11 tokens, with these TTFT and E2E."""
    work = generate("mooncake-conversation", n=len(latencies_ms), seed=0)
    requests = tuple(
        RealRequest(r.id, len(r.prompt), 11, 10 * i * MS, ttft * MS, e2e * MS)
        for i, (r, (ttft, e2e)) in enumerate(zip(work, latencies_ms, strict=True))
    )
    return RealRun(name, "made", Path(name), requests, work)
