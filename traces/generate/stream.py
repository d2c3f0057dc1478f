"""Generating: a description and a seed in, requests out, one at a time or as a workload.

The same arguments give the same requests, and fewer are the first of more. A stream holds only what
its open sessions need, so a million requests can be written as they are made.
"""

from __future__ import annotations

from heapq import merge
from itertools import chain, islice, takewhile
from math import isfinite
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from traces.generate.library import preset
from traces.generate.naming import Naming
from traces.generate.spec import WorkloadSpec
from traces.tokens import VOCAB_SIZE
from traces.workload import RequestStream, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from traces.generate.spec import TenantSpec
    from traces.workload import TraceRequest

__all__ = ["DEFAULT_REQUESTS", "RequestStream", "WorkloadSpec", "generate", "generate_stream"]

DEFAULT_REQUESTS = 1_000
# Streams of their own, so that a request's lengths do not hang on how its arrival was drawn.
_ARRIVALS, _REQUESTS = 0, 1


def generate(
    workload: str | WorkloadSpec = "mooncake-conversation",
    *,
    n: int | None = None,
    sessions: int | None = None,
    duration_s: float | None = None,
    rate: float | None = None,
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
) -> Workload:
    """Makes a workload, with the statistics of a trace or as described.

    Args:
        workload: the name of one of `presets()`, or a description.
        n: requests to make at most.
        sessions: sessions to make, with all their requests; of prefix kinds chat and agents only.
        duration_s: seconds to fill at most. Without any of the three, as many as the description
            says (for a preset: as its trace has), or 1,000.
        rate: arrivals per second, the same all the time, of requests or of sessions; by default the
            description's own, which may drift. How long users think stays as it is.
        seed: what everything is drawn from.
        vocab_size: token ids lie below it.

    Raises:
        ValueError: an unknown preset, an amount that is not positive, or no arrival in
            `duration_s`.
    """
    stream = generate_stream(
        workload,
        n=n,
        sessions=sessions,
        duration_s=duration_s,
        rate=rate,
        seed=seed,
        vocab_size=vocab_size,
    )
    return Workload(stream.name, tuple(stream), stream.meta)


def generate_stream(
    workload: str | WorkloadSpec = "mooncake-conversation",
    *,
    n: int | None = None,
    sessions: int | None = None,
    duration_s: float | None = None,
    rate: float | None = None,
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
) -> RequestStream:
    """The same requests as `generate`, made as they are asked for.

    Raises:
        ValueError: as `generate`.
    """
    spec = preset(workload) if isinstance(workload, str) else workload
    _check_amounts(spec, n, sessions, duration_s, rate)
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if n is None and sessions is None and duration_s is None:
        n, sessions = spec.n, spec.sessions
        if n is None and sessions is None:
            n = DEFAULT_REQUESTS
    meta: dict[str, object] = {
        "preset" if isinstance(workload, str) else "spec": spec.name,
        "source": spec.source,
        "licence": spec.licence,
        "n": n,
        "duration_s": duration_s,
        "rate": rate,
        "seed": seed,
    }
    if sessions is not None:
        meta["sessions"] = sessions
    if spec.concurrency is not None:
        meta["concurrency"] = spec.concurrency
    requests: Iterator[TraceRequest] = islice(_requests(spec, seed, sessions, rate, vocab_size), n)
    if duration_s is not None:
        end_ns = round(duration_s * 1e9)
        requests = takewhile(lambda request: request.arrival_ns < end_ns, requests)
        first = next(requests, None)
        if first is None:
            raise ValueError(f"no request arrives within duration_s={duration_s}; make it longer")
        requests = chain((first,), requests)
    return RequestStream(spec.name, meta, requests)


def _requests(
    spec: WorkloadSpec, seed: int, sessions: int | None, rate: float | None, vocab_size: int
) -> Iterator[TraceRequest]:
    """The requests of all tenants in order of arrival, without end unless `sessions` are given."""
    parts = spec.parts
    if not spec.tenants:
        return _of_one(parts[0][1], [seed], Naming(vocab_size=vocab_size), sessions, rate)
    total = sum(part.arrivals.rate_per_s for _, part in parts)
    streams = []
    for number, (tenant, part) in enumerate(parts):
        share = None if rate is None else rate * part.arrivals.rate_per_s / total
        names = Naming(tenant, number, vocab_size)
        streams.append(_of_one(part, [seed, number + 1], names, sessions, share))
    return merge(*streams, key=attrgetter("arrival_ns"))


def _of_one(
    part: TenantSpec, seeds: list[int], names: Naming, sessions: int | None, rate: float | None
) -> Iterator[TraceRequest]:
    seed, *tenant = seeds
    times = part.arrivals.times_ns(np.random.default_rng([seed, _ARRIVALS, *tenant]), rate)
    rng = np.random.default_rng([seed, _REQUESTS, *tenant])
    return part.prefix.requests(_first(times, sessions), part.lengths, rng, names)


def _first(blocks: Iterable[NDArray[np.int64]], count: int | None) -> Iterator[NDArray[np.int64]]:
    """The first `count` times, or all."""
    for block in blocks:
        if count is not None and count <= len(block):
            yield block[:count]
            return
        yield block
        count = None if count is None else count - len(block)


def _check_amounts(
    spec: WorkloadSpec,
    n: int | None,
    sessions: int | None,
    duration_s: float | None,
    rate: float | None,
) -> None:
    for name, count in (("n", n), ("sessions", sessions)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if sessions is not None and not all(part.of_sessions for _, part in spec.parts):
        raise ValueError(f"{spec.name} has no sessions to count; give n")
    for name, value in (("duration_s", duration_s), ("rate", rate)):
        if value is not None and not (isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value}")
