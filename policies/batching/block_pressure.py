"""Whether blocks suffice under decode-first; if not, who is preempted, and who cannot come in meanwhile.

All is read off the queue, the running requests and the block pool; nothing is changed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.orders.fcfs import FCFS
from policies.request import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.kv.block_memory import BlockMemory
    from policies.kv.blocks import Int64Array
    from policies.request import Request
    from policies.running import RunningBatch
    from policies.scheduler import Scheduler


def round_fits(
    memory: BlockMemory, running: RunningBatch, shares: Sequence[tuple[Request, int]]
) -> bool:
    """Whether there are blocks for a decode round and, with it, for tokens of prompts.

    Args:
        memory: the memory.
        running: who decodes.
        shares: requests with the tokens that each is to get.
    """
    needed = running.pages_needed()
    for request, tokens in shares:
        needed += memory.blocks(request.kv_len + tokens) - len(request.blocks)
    return needed <= memory.pool.free


def may_start(memory: BlockMemory, found: Int64Array, reach: int, spare: int) -> bool:
    """Whether there are blocks to admit a request.

    Args:
        memory: the memory.
        found: the blocks found for it; those in the free queue would leave it.
        reach: tokens that it must have blocks for, found ones included.
        spare: blocks to be kept free.
    """
    need = max(memory.blocks(reach) - len(found), 0) + memory.pool.unreferenced(found)
    return need + spare <= memory.pool.free


def victim_of(s: Scheduler, order: Sequence[Request]) -> Request:
    """Whom to preempt: the last admitted or, by priority, the least important and last to come.

    Args:
        s: the scheduler.
        order: the active requests in order of admission, at least one.
    """
    if not s.priorities.enabled:
        return order[-1]
    return max(order, key=lambda r: (s.priorities.rank(r), r.arrival_ns))


def stays_stuck(s: Scheduler, memory: BlockMemory, first: Request, hits: int) -> bool:
    """Whether who is first in the queue, and did not fit whole, cannot fit while nobody leaves.

    Blocks become fewer; what it needs could only shrink if someone who runs entered the next block of
    its own tokens into the cache.

    Args:
        s: the scheduler.
        memory: its memory.
        first: who was first to be admitted.
        hits: blocks that were found for it.
    """
    if type(s.order) is not FCFS or first.state is not State.WAITING:
        return False
    if not memory.pool.caching:
        return True
    wanted = memory.contents(first, hits)
    for request in s.running:
        entered = request.registered
        if entered <= hits and (
            entered == 0 or memory.contents(request, entered)[-1] == wanted[entered - 1]
        ):
            return False
    return True
