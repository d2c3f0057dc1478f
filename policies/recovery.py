"""What is left when a step failed: who fails with it, and who begins anew.

After a failure nobody knows which KV was written, so neither the prefix cache nor what running requests
hold can be trusted. The requests of the batches in flight fail. Everyone else waits again, to be
computed from its tokens under a new scheduler over an empty pool, as after a retraction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.request import FinishReason, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from policies.batch import Batch
    from policies.request import Request


def split_after_failure(
    requests: Iterable[Request], batches: Sequence[Batch], why: str
) -> tuple[list[Request], list[Request]]:
    """Who ends, and who begins anew.

    Args:
        requests: all that were not reported as ended, in order of arrival.
        batches: those in flight when a step failed.
        why: the failure.

    Returns:
        those that have ended (by the failure, or before it and not reported yet), and the others.
    """
    hit = {item.request for batch in batches for item in batch.prefill}
    hit |= {request for batch in batches if batch.decode for request in batch.decode.requests}
    ended, rest = [], []
    for request in requests:
        if request.state is State.FINISHED:
            ended.append(request)
        elif request in hit or request.abort_requested:
            request._output_len = request.output_len  # as far as they were accepted
            request._running = None
            request.state = State.FINISHED
            request.finish_reason = FinishReason.ABORT
            if request in hit:
                request.refusal = why
            ended.append(request)
        else:
            rest.append(request)
    return ended, rest


def start_over(request: Request) -> Request:
    """Put a request into the state of one that was retracted, whatever it held."""
    request._output_len = request.output_len
    request._running, request._left = None, None
    request._kv_len = 0
    if request.row is not None:
        request.retractions += 1
    request.row = request.lock = request.found = None
    request.prefix_len = request.extend_end = 0
    request.cached_len = request.inserted_len = 0
    request.blocks, request.registered = [], 0
    request.epoch += 1
    request.state = State.WAITING
    return request
