"""Fair share between tenants: the virtual token counter (Sheng et al., OSDI 2024).

"Fairness in Serving Large Language Models" gives each tenant a counter of the tokens it was served,
input and output tokens at a price each, and always admits for the tenant whose counter is lowest.
Between two tenants who have requests waiting all the while, the service differs by at most

    2 * max(input_price * longest prompt, output_price * tokens in a running batch)

however much more one of them sends, and no device time is wasted to make it so (theorem 4.4 there).
Three rules, as there:

- a prompt is charged when it is admitted, output tokens as they are produced;
- a tenant that had nothing waiting is lifted to the lowest counter among those who had, or to the
  counter of the tenant whose request left the queue last: it has saved nothing up while away;
- among the requests of one tenant, the queue's own order holds.

Nothing is counted in a decode step. A request knows how many tokens it has been given, so the order
remembers whom it has arranged, and settles the accounts when it arranges again. It does not know
what serving a tenant costs the device, and a request that is computed again after a retraction is
not charged again: the tenant did not ask for it.
"""

from __future__ import annotations

import heapq
from collections import deque
from math import isfinite
from typing import TYPE_CHECKING

from policies.orders.base import QueueOrder
from policies.registry import ORDERS
from policies.request import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from policies.orders.base import QueueView
    from policies.request import Request


class _Account:
    """What one tenant was served. Tokens are whole numbers: when they are added up changes nothing."""

    __slots__ = ("cached", "input", "lifted", "output", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.input = 0  # prompt tokens, those found in the prefix cache apart
        self.cached = 0
        self.output = 0
        self.lifted = 0.0


@ORDERS.register("fair")
class FairShare(QueueOrder):
    """See the module. Requests that name no tenant belong to one more tenant.

    Args:
        input_price: of a prompt token.
        output_price: of an output token. 1 and 2 are the paper's.
        cached_price: of a prompt token found in the prefix cache; None for `input_price`, which is
            what the bound above is for. A request's place is chosen before the cache is looked at, so
            below that price the bound grows by what one step admits.
        weights: share of tenants relative to one another; 1 for those not named.
    """

    def __init__(
        self,
        *,
        input_price: float = 1.0,
        output_price: float = 2.0,
        cached_price: float | None = None,
        weights: dict[str, float] | None = None,
    ) -> None:
        prices = {"input_price": input_price, "output_price": output_price}
        if cached_price is not None:
            prices["cached_price"] = cached_price
        for name, price in prices.items():
            if not (isfinite(price) and price >= 0):
                raise ValueError(f"{name} is {price}; it must be a number of at least 0")
        if input_price == output_price == 0:
            raise ValueError("input_price and output_price are both 0: nothing would be counted")
        for tenant, weight in (weights or {}).items():
            if not (isfinite(weight) and weight > 0):
                raise ValueError(f"the weight of {tenant!r} is {weight}; it must be above 0")
        self._input_price = input_price
        self._output_price = output_price
        self._cached_price = input_price if cached_price is None else cached_price
        self._weights = dict(weights or {})
        self._accounts: dict[str | None, _Account] = {}
        self._arranged: list[Request] = []  # the queue as last arranged
        self._served: dict[Request, int] = {}  # admitted, and how many output tokens are charged
        self._last_out: str | None = None  # the tenant whose request left the queue last

    def counter(self, tenant: str | None) -> float:
        """A tenant's virtual counter, as of the last arranging."""
        account = self._accounts.get(tenant)
        if account is None:
            return 0.0
        inputs = account.input * self._input_price + account.cached * self._cached_price
        return (inputs + account.output * self._output_price) / account.weight + account.lifted

    def arrange(self, waiting: Sequence[Request], view: QueueView) -> list[Request]:  # noqa: ARG002
        """See `QueueOrder.arrange`. The lowest counter first, as if all that fits were admitted."""
        self._settle()
        queues: dict[str | None, deque[tuple[int, Request]]] = {}
        for place, request in enumerate(waiting):
            queues.setdefault(request.tenant, deque()).append((place, request))
        self._lift(queues)
        # who is next: by counter, then by place in the queue
        heads = [(self.counter(tenant), queue[0][0], tenant) for tenant, queue in queues.items()]
        heapq.heapify(heads)
        arranged = []
        while heads:
            counter, _, tenant = heads[0]
            queue = queues[tenant]
            request = queue.popleft()[1]
            arranged.append(request)
            if queue:
                counter += self._admission_charge(request)
                heapq.heapreplace(heads, (counter, queue[0][0], tenant))
            else:
                heapq.heappop(heads)
        self._arranged = arranged
        return list(arranged)

    def _weight(self, tenant: str | None) -> float:
        return 1.0 if tenant is None else self._weights.get(tenant, 1.0)

    def _account(self, tenant: str | None) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account(self._weight(tenant))
        return account

    def _admission_charge(self, request: Request) -> float:
        if request in self._served:  # it was retracted
            return 0.0
        return request.prompt_len * self._input_price / self._weight(request.tenant)

    def _settle(self) -> None:
        """Charge what was served since the last arranging."""
        for request in self._arranged:
            if request.state is not State.WAITING:
                self._last_out = request.tenant
            if _was_admitted(request) and request not in self._served:
                self._served[request] = 0
                account = self._account(request.tenant)
                cached = min(request.cached_tokens, request.prompt_len)
                account.cached += cached
                account.input += request.prompt_len - cached
        ended = []
        for request, charged in self._served.items():
            produced = request.output_len
            if produced != charged:
                self._account(request.tenant).output += produced - charged
                self._served[request] = produced
            if request.state is State.FINISHED:
                ended.append(request)
        for request in ended:
            del self._served[request]

    def _lift(self, tenants: Iterable[str | None]) -> None:
        """Give tenants who had nothing waiting no credit for that.

        Args:
            tenants: who has requests waiting, by their place in the queue.
        """
        backlogged = {r.tenant for r in self._arranged if r.state is State.WAITING}
        floor = min((self.counter(tenant) for tenant in backlogged), default=None)
        for tenant in tenants:
            if tenant not in backlogged:
                least = self.counter(self._last_out) if floor is None else floor
                self._account(tenant).lifted += max(0.0, least - self.counter(tenant))
                if floor is None:
                    floor = self.counter(tenant)


def _was_admitted(request: Request) -> bool:
    """Whether a request that was waiting has been in a batch since, if only for a while.

    One that is refused or aborted while it waits ends in the epoch it came in.
    """
    return request.state in (State.PREFILL, State.RUNNING) or request.epoch > 0
