"""Which rank or replica a request goes to, as a front end decides when it comes.

A front end knows of each rank how many requests wait and run there, as it was last told, and what it has
sent there since. It does not know prompts, caches or what is about to end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Counts = Callable[[], Sequence[tuple[int, int]]]

TOLD_EVERY_NS: Final = 100_000_000


class Router(Protocol):
    """Chooses the rank of a request."""

    def choose(self, now_ns: int, counts: Counts) -> int:
        """The rank that a request goes to.

        Args:
            now_ns: when it came.
            counts: what waits and runs at each rank at this moment, if it is asked.
        """
        ...


class LeastLoaded:
    """The rank with the least of four times its waiting and once its running requests.

    As vLLM's front end for data parallelism does (`DPLBAsyncMPClient`): the counts are those last told,
    at most every 100 ms, and each request sent since counts as waiting. Of equals the first.
    """

    def __init__(self) -> None:
        self._told_ns: int | None = None
        self._counts: list[list[int]] = []

    def choose(self, now_ns: int, counts: Counts) -> int:
        """See `Router.choose`."""
        if self._told_ns is None or now_ns - self._told_ns >= TOLD_EVERY_NS:
            self._told_ns = now_ns
            self._counts = [list(pair) for pair in counts()]
        scores = [4 * waiting + running for waiting, running in self._counts]
        rank = scores.index(min(scores))
        self._counts[rank][0] += 1
        return rank


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, now_ns: int, counts: Counts) -> int:  # noqa: ARG002
        """See `Router.choose`."""
        rank = self._next
        self._next = (rank + 1) % len(counts())
        return rank


ROUTERS: dict[str, type[Router]] = {"least-loaded": LeastLoaded, "round-robin": RoundRobin}
