"""What one decode-first step hands out, while it is planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.batch import DecodeRows
    from policies.kv.block_memory import BlockMemory
    from policies.request import Request


class Step:
    """What one step hands out.

    Attributes:
        budget: tokens left to hand out.
        threshold: most tokens one request gets; 0 for no limit.
        granted: tokens by request, in batch order, as far as they were handed out one by one.
        registered: how many blocks of such a request could be found before.
        preempted: whether a request was preempted in this step.
        rows: the decode round, if anyone decodes.
    """

    __slots__ = ("budget", "granted", "preempted", "registered", "rows", "threshold")

    def __init__(self, budget: int, threshold: int) -> None:
        self.budget = budget
        self.threshold = threshold
        self.granted: dict[Request, int] = {}
        self.registered: dict[Request, int] = {}
        self.preempted = False
        self.rows: DecodeRows | None = None

    def share(self, behind: int) -> int:
        """What a request that is `behind` tokens behind may get of them, budget apart."""
        return min(behind, self.threshold) if self.threshold else behind

    def grant(self, memory: BlockMemory, request: Request, tokens: int) -> None:
        """Hand out tokens whose blocks are there."""
        self.registered[request] = request.registered
        memory.register(request, min(request.kv_len + tokens, request.seq_len))
        self.granted[request] = tokens
        self.budget -= tokens
