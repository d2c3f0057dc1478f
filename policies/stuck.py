"""A scheduler that has work and plans nothing, round after round: a policy's fault, and how to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.scheduler import Scheduler

STUCK_AFTER = 10_000
"""Rounds in a row without a batch or an arrival after which a scheduler is taken to be stuck."""


class StuckError(RuntimeError):
    """The scheduler has work and plans nothing, round after round."""


class StuckGuard:
    """Counts rounds in which nothing came in and nothing was launched."""

    def __init__(self) -> None:
        self._rounds = 0

    def launched(self) -> None:
        """Something was put on the device."""
        self._rounds = 0

    def received(self, arrivals: int, scheduler: Scheduler, now_ns: int | None = None) -> None:
        """A round begins.

        Args:
            arrivals: requests that came in.
            scheduler: whose round it is.
            now_ns: the time, for the message, where it is worth telling.

        Raises:
            StuckError: after `STUCK_AFTER` rounds for nothing; says the policy and the state.
        """
        self._rounds = 1 if arrivals else self._rounds + 1
        if self._rounds > STUCK_AFTER:
            policy = scheduler.config
            when = "" if now_ns is None else f", at {now_ns} ns"
            raise StuckError(
                f"batching {policy.batching!r} with order {policy.order!r} planned no batch in "
                f"{STUCK_AFTER} rounds, with work to do{when}: {scheduler.describe()}"
            )
