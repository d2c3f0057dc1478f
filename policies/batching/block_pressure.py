"""When blocks run short under decode-first: who is preempted, and who cannot be admitted meanwhile.

Both are read off the queue, the running requests and the block pool; nothing is changed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.orders.fcfs import FCFS
from policies.request import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.request import Request
    from policies.scheduler import Scheduler


def victim_of(s: Scheduler, order: Sequence[Request]) -> Request:
    """Whom to preempt: the last admitted or, by priority, the least important and last to come.

    Args:
        s: the scheduler.
        order: the active requests in order of admission, at least one.
    """
    if not s.priorities.enabled:
        return order[-1]
    return max(order, key=lambda r: (s.priorities.rank(r), r.arrival_ns))


def stays_stuck(s: Scheduler, first: Request, hits: int, *, caching: bool) -> bool:
    """Whether who is first in the queue, and did not fit whole, cannot fit while nobody leaves.

    Blocks become fewer; what it needs could only shrink if someone who runs entered the next block of
    its own tokens into the cache.

    Args:
        s: the scheduler.
        first: who was first to be admitted.
        hits: blocks that were found for it.
        caching: whether blocks can be found.
    """
    if not isinstance(s.order, FCFS) or first.state is not State.WAITING:
        return False
    if not caching:
        return True
    for request in s.running:
        entered = request.registered
        if entered <= hits and (
            entered == 0 or request.hashes[entered - 1] == first.hashes[entered - 1]
        ):
            return False
    return True
