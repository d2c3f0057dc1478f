"""What a batching strategy is: it plans the next step and knows what a result means.

The two families that ship follow two engines, down to how a request is admitted, how its memory is
kept, and what becomes of a token for a request that was preempted meanwhile. A strategy reads the
scheduler's state and changes it through the scheduler's methods; one instance serves one scheduler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from policies.batch import Batch, DecodeRows, Repetition
    from policies.config import PolicyConfig
    from policies.kv.base import Memory
    from policies.kv.pool import KVPool
    from policies.request import Request
    from policies.scheduler import Scheduler


class Intake(Protocol):
    """Cuts what a request asks for to what can ever fit, and refuses what never can."""

    def check(self, request: Request) -> str | None:
        """Cut the request's `max_new_tokens`; returns why it is refused, or None if it may come in."""
        ...


class Batching(Protocol):
    """Chooses how prefill and decode share a step. Derive from it.

    Attributes:
        caches: the prefix caches it can plan with, by their names in the config.
        foresees_departures: while nobody waits, a member that leaves at the length it asked for gives
            it nothing else to decide, so that rounds can be foreseen beyond that (`policies.foresight`).
    """

    caches: tuple[str, ...]
    foresees_departures: bool = False

    def make_memory(
        self, config: PolicyConfig, capacity: int, rows: int, pool: KVPool | None
    ) -> Memory:
        """The KV memory it plans with.

        Args:
            config: the policy.
            capacity: tokens.
            rows: requests that may hold KV at once.
            pool: the world's pool, if it keeps page numbers; None where they are only counted.
        """
        ...

    def make_intake(self, config: PolicyConfig, capacity: int) -> Intake:
        """What comes in, and how much of it.

        Raises:
            ValueError: for a config under which requests could come in and never end.
        """
        ...

    def next_batch(self, s: Scheduler) -> Batch | None:
        """The next step, or None if there is nothing to compute this time."""
        ...

    def repeatable(self, s: Scheduler, at_most: int) -> int:  # noqa: ARG002
        """How many rounds of the running batch could follow with nothing else to plan or to decide.

        A strategy that decides in every step says 0, and is asked for each.

        Args:
            s: the scheduler; its last batch decoded all that runs.
            at_most: no more than that, at least 1.
        """
        return 0

    def at_once(self, s: Scheduler, rounds: int) -> int:  # noqa: ARG002
        """How many of the next rounds, all foreseen, `repeat` can make together.

        0 where the next has to be planned like any other.
        """
        return rounds

    def repeat(self, s: Scheduler, batch: Batch, rounds: int) -> Repetition:
        """Make the changes of so many rounds, which `repeatable` and `at_once` allowed, at once.

        Args:
            s: the scheduler.
            batch: the batch launched in the last of them.
            rounds: how many.
        """
        raise NotImplementedError

    def end_rows(self, s: Scheduler, rows: DecodeRows, stopped: set[Request]) -> None:
        """End those who stopped by themselves in the last of the rounds of `repeat`.

        Args:
            s: the scheduler.
            rows: of the batch committed in that round.
            stopped: members that stopped.
        """
        for request in [r for r in rows.requests if r in stopped]:
            reason = s.reason_to_end(request, stop=True)
            assert reason is not None  # it stopped
            s.finish(request, reason)

    def commit(self, s: Scheduler, batch: Batch, stops: set[int]) -> tuple[Request, ...]:
        """Accept a batch's sampled tokens and end the requests that end with them.

        Args:
            s: the scheduler.
            batch: the oldest batch launched.
            stops: indices among the batch's sampling items that end their sequence by themselves.

        Returns:
            the requests for whom the token came too late and does not count.
        """
        ...

    def abort(self, s: Scheduler, request: Request) -> None:
        """The client of a request that does not wait gave up."""
        ...

    def on_end(self, request: Request) -> None:
        """A request ended, in whatever way."""

    def has_news(self) -> bool:
        """Whether there is something to plan although no request is left."""
        return False

    def sits_out(self, request: Request) -> bool:  # noqa: ARG002
        """Whether a request decodes, but not in the step that is planned."""
        return False
