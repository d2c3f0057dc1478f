"""What a queue order is, and what it may look at.

A queue order sorts the waiting queue before each prefill. Most orders are a key by which the queue is
sorted; they derive from `KeyOrder`, and priorities can be switched on over them. An order that needs
the whole queue at once implements `arrange` itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from policies.registry import StrategyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.cache.base import Match
    from policies.request import Request


class QueueView(Protocol):
    """What an order may see besides the queue."""

    @property
    def now(self) -> int:
        """The world's clock at the last `Receive`, in nanoseconds."""
        ...

    @property
    def running(self) -> Sequence[Request]:
        """The running batch, in batch order."""
        ...

    @property
    def processed_tokens(self) -> int:
        """Prefill tokens launched so far (see the order hrrn)."""
        ...

    def match(self, request: Request) -> Match:
        """The cached prefix of all of a request's tokens. Counts as a use of that prefix."""
        ...


class QueueOrder(Protocol):
    """Chooses who is next. Derive from it, or from `KeyOrder`.

    Attributes:
        cache_aware: it looks at the prefix cache; without a cache it makes no sense, and the
            scheduler takes fcfs in its place.
        needs_tree: it walks the prefix tree, so the cache must be one.
        by_priority: priorities may be put over it (it must have a `key`, as `KeyOrder` has).
        fallback_queue: a cache-aware order leaves a queue longer than this as it is, because looking
            everyone up would take too long; None for no limit.
    """

    cache_aware: bool = False
    needs_tree: bool = False
    by_priority: bool = False
    fallback_queue: int | None = None

    def arrange(self, waiting: Sequence[Request], view: QueueView) -> list[Request]:
        """The queue in its new order: the same requests, each once."""
        ...

    def looks_at_cache(self, waiting: Sequence[Request]) -> bool:
        """Whether arranging this queue looks requests up in the cache, which counts as a use of it."""
        falls_back = self.fallback_queue is not None and len(waiting) > self.fallback_queue
        return self.cache_aware and not falls_back


class KeyOrder(QueueOrder):
    """An order by a key, smallest first; equals keep their places."""

    by_priority = True

    def key(self, request: Request, view: QueueView) -> Any:
        """Sorts the queue. A sort key of any comparable type."""
        raise NotImplementedError

    def arrange(self, waiting: Sequence[Request], view: QueueView) -> list[Request]:
        """See `QueueOrder.arrange`."""
        return sorted(waiting, key=lambda request: self.key(request, view))


def check_arranged(name: str, before: Sequence[Request], after: object) -> None:
    """See that an order has left the queue whole.

    Args:
        name: of the order.
        before: the queue it was given.
        after: what it returned.

    Raises:
        StrategyError: where that is not a list of the same requests, each once; names the order.
    """
    must = "arrange has to return every request it is given, each once"
    if not isinstance(after, list):
        raise StrategyError(f"queue order {name!r} returned {after!r}, not a list: {must}")
    given, returned = ({id(request): request for request in queue} for queue in (before, after))
    if len(after) == len(before) and given.keys() == returned.keys():
        return
    missing = [request.id for key, request in given.items() if key not in returned]
    added = [getattr(r, "id", r) for key, r in returned.items() if key not in given]
    wrong = [
        f"{what} {', '.join(map(repr, names[:3]))}{' ...' if len(names) > 3 else ''}"
        for what, names in (("left out", missing), ("added", added))
        if names
    ]
    if len(returned) < len(after):
        wrong.append("gave some twice")
    raise StrategyError(
        f"queue order {name!r} was given {len(before)} requests and returned {len(after)}: "
        f"it {' and '.join(wrong)}; {must}"
    )
