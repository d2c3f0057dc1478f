"""How a decode-first step's tokens go to those who are active already, before anyone is admitted.

Most steps decode everyone that runs, and then go on with prompts; they take one round of the running
batch. Only where blocks or budget run out are active requests gone through one by one, in order of
admission, and the last of them preempted to make room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.batching.block_pressure import round_fits, victim_of

if TYPE_CHECKING:
    from policies.batching.active import Active
    from policies.batching.step import Step
    from policies.kv.block_memory import BlockMemory
    from policies.request import Request
    from policies.scheduler import Scheduler


class Grants:
    """See the module.

    Args:
        memory: gives the blocks for the tokens.
        active: who is active.
    """

    def __init__(self, memory: BlockMemory, active: Active) -> None:
        self._memory = memory
        self._active = active

    # -- the common case ----------------------------------------------------------------------

    def grant_round(self, s: Scheduler, step: Step) -> bool:
        """All that runs decodes, then prompts go on; False, and nothing, if there is no room for all."""
        memory, decodes = self._memory, len(s.running)
        shares = self._shares_of_prompts(s, step, step.budget - decodes)
        if shares is None or decodes > step.budget or not round_fits(memory, s.running, shares):
            return False
        if decodes:
            step.budget -= decodes
            memory.extend_round(s.running, known_ahead=0 if s.overlapped else 1)
            step.rows = s.running.advance()
            for request in self._active.rested:  # nothing of theirs is in flight: all is known
                memory.register(request, request.seq_len)
        for request, tokens in shares:
            memory.extend(request, request.kv_len + tokens)
            step.grant(memory, request, tokens)
        return True

    def _shares_of_prompts(
        self, s: Scheduler, step: Step, budget: int
    ) -> list[tuple[Request, int]] | None:
        """What prompts in chunks get once all decodes have theirs; None if some come before a decode."""
        active = self._active
        first = next(iter(active.prefilling), None)
        if first is None:
            return []
        if active.rested or (s.running and active.precedes(first, s.running.requests[-1])):
            return None
        shares = []
        for request in active.prefilling:
            if budget <= 0:
                break
            tokens = min(step.share(request.seq_len - request.kv_len), budget)
            shares.append((request, tokens))
            budget -= tokens
        return shares

    # -- when budget or blocks run out --------------------------------------------------------

    def grant_one_by_one(self, s: Scheduler, step: Step) -> None:
        """Hand out tokens to active requests in order, preempting where blocks run out."""
        memory = self._memory
        decoding = set(s.running)
        order = list(self._active)
        at = 0
        while at < len(order) and step.budget > 0:
            request = order[at]
            if request in self._active.prefilling:
                behind = request.seq_len - request.kv_len
            elif request in decoding:
                behind = 1
            else:  # its last token is in flight
                at += 1
                continue
            tokens = min(step.share(behind), step.budget)
            fits = memory.extend(request, request.kv_len + tokens)
            while not fits:
                victim = victim_of(s, order)
                at -= order.index(victim) < at
                order.remove(victim)
                self._preempt(s, victim, step)
                if victim is request:
                    break
                fits = memory.extend(request, request.kv_len + tokens)
            if not fits:
                break  # it was preempted itself: nobody behind it gets anything (see the spec)
            step.grant(memory, request, tokens)
            at += 1
        self._active.sit_out(s, [request for request in s.running if request not in step.granted])
        if s.running:
            step.rows = s.running.advance()

    def _preempt(self, s: Scheduler, victim: Request, step: Step) -> None:
        """Take everything from an active request; it waits again, ahead of the others."""
        step.preempted = True
        step.budget += step.granted.pop(victim, 0)
        if victim in step.registered and not s.config.accidents.planned_blocks_are_hits:
            self._memory.unregister(victim, step.registered[victim])
        self._active.leave(victim)
        s.give_up(victim)
        s.preempted.append(victim)
        s.enqueue(victim, front=True)
