"""Mooncake JSONL, the common denominator of replay tools: AIPerf, Dynamo, SGLang, vLLM, guidellm.

A row holds `timestamp` (ms), `input_length`, `output_length` and `hash_ids`, one per block, the last,
partial one included; where a session is a chain of turns also `session_id` and, from the second turn
on, `delay` (ms after the answer before it), as Dynamo's replay reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.sessions import by_session
from traces.writers.hashes import PrefixHashes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.readers.fields import Row
    from traces.workload import TraceRequest, Workload
    from traces.writers.losses import Losses

_NS_PER_MS = 1_000_000


def mooncake_rows(workload: Workload, block_size: int, losses: Losses) -> Iterator[Row]:
    """The rows of a workload, in its order; `losses` is told what they do not hold."""
    hashes = PrefixHashes([r.prompt for r in workload], block_size, losses)
    chains = chained(workload)
    for request in workload:
        losses.of_fields(request)
        row: Row = {
            "timestamp": milliseconds(request.arrival_ns),
            "input_length": len(request.prompt),
            "output_length": len(request.output),
            "hash_ids": hashes.of(request.prompt),
        }
        name_session(row, request, chains, losses)
        yield row


def name_session(
    row: Row, request: TraceRequest, chains: dict[str, str | None], losses: Losses
) -> None:
    """Adds what the row can say of the request's session: `session_id` and `delay`."""
    if request.id not in chains:
        if request.session is not None:
            waits = request.depends_on or request.spawned_by or request.turn is not None
            losses.add("what requests of a session wait for" if waits else "the session")
        return
    row["session_id"] = request.session
    if chains[request.id] is not None:
        row["delay"] = milliseconds(request.delay_ns)


def chained(workload: Workload) -> dict[str, str | None]:
    """Requests of sessions that are chains -> the one before each, None for the first.

    In a chain each request waits for the end of the one before it, and for nothing else, and turns
    are counted from 0.
    """
    chains: dict[str, str | None] = {}
    for requests in by_session(r for r in workload if r.session is not None).values():
        before: list[str | None] = [None, *(r.id for r in requests[:-1])]
        if all(
            request.depends_on == (() if one is None else (one,))
            and request.spawned_by is None
            and request.turn == number
            and (one is not None or request.delay_ns == 0)
            for number, (request, one) in enumerate(zip(requests, before, strict=True))
        ):
            chains.update(zip((r.id for r in requests), before, strict=True))
    return chains


def milliseconds(time_ns: int) -> int | float:
    """Milliseconds of a time: whole where they are, and such that reading gives back the ns."""
    whole, rest = divmod(time_ns, _NS_PER_MS)
    return time_ns / _NS_PER_MS if rest else whole
