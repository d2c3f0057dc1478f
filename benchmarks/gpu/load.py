"""Workloads made for measuring steps: random prompts of given lengths, all at once or phase by phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def burst(requests: int, prompt: int, output: int, *, seed: int = 0) -> Workload:
    """Requests of equal lengths, in tokens, sent at once; they share no prefix."""
    return phases([[(prompt, output)] * requests], seed=seed)


def phases(lengths: Iterable[Sequence[tuple[int, int]]], *, seed: int = 0) -> Workload:
    """Requests in phases, each sent when all of the one before have ended.

    Args:
        lengths: for each phase, prompt and output tokens of each request.
        seed: other seeds give other tokens.
    """
    found: list[TraceRequest] = []
    before: tuple[str, ...] = ()
    for number, phase in enumerate(lengths):
        key = (seed * 1_000 + number) * 10_000
        now = [
            TraceRequest(
                f"{number}-{i:05}",
                0,
                SyntheticTokens(key + 2 * i, prompt),
                SyntheticTokens(key + 2 * i + 1, output),
                session="phases",
                depends_on=before,
            )
            for i, (prompt, output) in enumerate(phase)
        ]
        before = tuple(request.id for request in now)
        found += now
    return Workload("phases", found)
