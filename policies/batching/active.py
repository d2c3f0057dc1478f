"""Who is active under decode-first, in which order they were admitted, and in which phase each is.

It knows nothing of tokens, budgets or blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.request import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from policies.request import Request
    from policies.scheduler import Scheduler


class Active:
    """The requests that run in vLLM's sense: admitted, and not ended or preempted since.

    Each is in one of these phases, from one planning to the next:

    - in `prefilling` alone: part of its prompt is left to plan;
    - in `prefilling` and `joining`: the step planned last computes its prompt to the end, so that it
      decodes from the next one on;
    - in the scheduler's running batch: it decodes in every step;
    - in `sitting_out`: it decodes, but got no token in the step planned last;
    - in none of them: its last token is in flight.

    Attributes:
        requests: all of them, in order of admission.
        prefilling: see above, in order of admission.
        joining: see above; who was aborted or preempted meanwhile may still be in it.
        sitting_out: see above, in batch order.
        rested: those of the running batch that sat out the step before the one being planned: nothing
            of theirs is in flight.
    """

    def __init__(self) -> None:
        self.requests: dict[Request, None] = {}
        self.prefilling: dict[Request, None] = {}
        self.joining: list[Request] = []
        self.sitting_out: dict[Request, None] = {}
        self.rested: list[Request] = []
        self._admissions = 0
        self._rank: dict[Request, int] = {}  # by admission; it outlasts a preemption

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)

    def admit(self, request: Request) -> None:
        """A waiting request gets the first part of its prompt."""
        request.state = State.PREFILL
        self.requests[request] = self.prefilling[request] = None
        self._admissions = self._rank[request] = self._admissions + 1

    def in_order(self, requests: Iterable[Request]) -> list[Request]:
        """Requests that were admitted and have not ended, the first admitted first."""
        return sorted(requests, key=self._rank.__getitem__)

    def precedes(self, one: Request, other: Request) -> bool:
        """Whether one request was admitted before another."""
        return self._rank[one] < self._rank[other]

    def take_back(self, s: Scheduler) -> None:
        """Those whose prefill has ended, or who sat out the last step, decode from now on."""
        self.rested = list(self.sitting_out)
        if not (self.joining or self.rested):
            return
        back = [r for r in self.joining if r.state is State.PREFILL] + self.rested
        self.joining.clear()
        self.sitting_out.clear()
        for request in back:
            self.prefilling.pop(request, None)
        s.join_running(back)
        rank = self._rank.__getitem__
        newest = list(map(rank, s.running.requests[-len(back) - 1 :]))  # and who was last
        if newest != sorted(newest):  # mostly they are the last admitted
            s.running.keep(self.in_order(s.running))

    def sit_out(self, s: Scheduler, requests: list[Request]) -> None:
        """Take requests out of the running batch for the step being planned."""
        self.sitting_out.update(dict.fromkeys(requests))
        s.running.leave(requests)

    def leave(self, request: Request) -> None:
        """A request is preempted, or ends."""
        self.requests.pop(request, None)
        self.prefilling.pop(request, None)
        self.sitting_out.pop(request, None)

    def end(self, request: Request) -> None:
        """A request has ended, whether or not it was active."""
        self.leave(request)
        self._rank.pop(request, None)

    def all_decode(self) -> bool:
        """Whether nobody is being prefilled or sits out: who is active decodes, or ends."""
        return not (self.prefilling or self.joining or self.sitting_out)
