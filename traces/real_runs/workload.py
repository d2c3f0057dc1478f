"""What to replay of a run that is known by its lengths alone.

Load generators' result files hold how long prompts and answers were, not what they said. The prompts
made here share nothing, so a prefix cache finds nothing in them; where the real ones shared prefixes,
give the workload itself.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING

from traces.errors import TraceError
from traces.readers.read import read_trace
from traces.tokens import SyntheticTokens
from traces.workload import TraceRequest, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from traces.real_runs.base import RealRequest

MADE = "real run"
SHARES_NOTHING = "prompts are known by their lengths alone: those replayed share no prefix"


def workload_of(
    requests: Sequence[RealRequest],
    name: str,
    given: str | Path | None,
    path: Path,
    answered: Sequence[bool] = (),
) -> tuple[Workload, tuple[str, ...]]:
    """The workload of a run, in the order of its arrivals, and what is not known of it.

    Args:
        requests: of the run; those without an arrival are sent at the start.
        name: of the workload.
        given: the workload itself, if at hand: as many requests in the same order, of the same
            lengths. Their prompts are replayed, at the run's times.
        path: of the run, for errors.
        answered: of all requests that were sent, in that order, which are among `requests`, where that
            is known: a given workload may then hold all of them.

    Raises:
        TraceError: where a given workload is not that of the run.
    """
    if given is None:
        made = [_request(place, request) for place, request in enumerate(requests)]
        notes: tuple[str, ...] = (SHARES_NOTHING,)
    else:
        work = list(read_trace(given))
        if len(work) == len(answered):
            work = list(compress(work, answered))
        if len(work) != len(requests):
            raise TraceError(
                given, f"{len(work)} requests", f"{len(requests)}, as {path} has answered"
            )
        made = []
        for sent, request in zip(work, requests, strict=True):
            if len(sent.prompt) != request.prompt_tokens:
                raise TraceError(
                    given,
                    f"request {sent.id!r} with {len(sent.prompt)} prompt tokens",
                    f"{request.prompt_tokens}, as request {request.id!r} of {path} has",
                )
            one = _request(0, request)
            made.append(replace(one, prompt=sent.prompt, session=sent.session, tenant=sent.tenant))
        notes = ()
    made.sort(key=lambda request: request.arrival_ns)
    return Workload(name, made, {"path": str(path), "format": MADE}), notes


def _request(place: int, request: RealRequest) -> TraceRequest:
    return TraceRequest(
        id=request.id,
        arrival_ns=request.arrival_ns or 0,
        prompt=SyntheticTokens(2 * place, request.prompt_tokens),
        output=SyntheticTokens(2 * place + 1, request.output_tokens),
    )
