"""What the result of a decode-first step says: whose token counts, and whom it ends.

A token that comes for a request that was preempted meanwhile counts all the same; only one for a request
that has ended is dropped. What an end entails is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policies.request import State

if TYPE_CHECKING:
    from policies.batch import Batch
    from policies.request import FinishReason, Request
    from policies.scheduler import Scheduler


class Outcome(NamedTuple):
    """See the module.

    Attributes:
        sampled: requests whose prompt's end brought a token that counts.
        ends: who ends, and why.
        dropped: requests for whom a token came too late.
    """

    sampled: list[Request]
    ends: dict[Request, FinishReason]
    dropped: list[Request]


def outcome_of(s: Scheduler, batch: Batch, stops: set[int]) -> Outcome:
    """Accept the tokens of the oldest batch launched.

    Args:
        s: the scheduler.
        batch: the batch.
        stops: indices among its sampling items that end their sequence by themselves.
    """
    outcome = Outcome([], {}, [])
    first = 0  # of the decode rows' places among the sampling items
    for item in batch.prefill:
        if item.samples:
            if _accept(s, outcome, item.request, stop=first in stops):
                outcome.sampled.append(item.request)
            first += 1
    if batch.decode is None:
        return outcome
    late, due = s.running.commit(batch.decode), s.running.due()
    if not (late or due or stops):
        return outcome  # mostly nobody ends
    stopped = {batch.decode.requests[i - first] for i in stops if i >= first}
    for request in late:
        _accept(s, outcome, request, stop=request in stopped)
    for request in [*due, *stopped.difference(late)]:
        reason = s.reason_to_end(request, stop=request in stopped)
        assert reason is not None
        outcome.ends.setdefault(request, reason)  # unless its prompt's token has just ended it
    return outcome


def _accept(s: Scheduler, outcome: Outcome, request: Request, *, stop: bool) -> bool:
    """Count a token that the rounds do not; returns whether it does count."""
    if request.state is State.FINISHED:
        outcome.dropped.append(request)
        return False
    request._output_len += 1
    reason = s.reason_to_end(request, stop=stop)
    if reason is not None:
        outcome.ends[request] = reason
    return True
