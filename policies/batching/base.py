"""What a batching strategy is: it plans the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from policies.batch import Batch
    from policies.scheduler import Scheduler


class Batching(Protocol):
    """Chooses how prefill and decode share a step.

    One instance serves one scheduler, whose state it reads, and changes only through the scheduler's
    methods.
    """

    def next_batch(self, s: Scheduler) -> Batch | None:
        """The next step, or None if there is nothing to compute this time."""
        ...
