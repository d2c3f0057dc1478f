"""Static batching: the textbook baseline that continuous batching is measured against.

A batch is filled while the queue has requests and there is room, and then runs until its last request
ends; nobody joins meanwhile (request-level scheduling in Yu et al., "Orca", OSDI 2022). Requests that
end early are answered at once and their memory is freed, which flatters it a little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.batching.prefill_first import PrefillFirst
from policies.registry import BATCHINGS

if TYPE_CHECKING:
    from policies.batch import Batch
    from policies.scheduler import Scheduler


@BATCHINGS.register("static")
class StaticBatching(PrefillFirst):
    """See the module and `Batching`."""

    def __init__(self) -> None:
        super().__init__()
        self._closed = False

    def _prefill(self, s: Scheduler) -> Batch | None:
        """A step of prompt tokens, while the batch is being filled."""
        if not s.running:
            self._closed = False
        if self._closed:
            return None
        return super()._prefill(s)

    def _queue_is_shut(self, s: Scheduler) -> bool:
        """Whether planning will not look at those who wait until someone leaves."""
        return self._closed or super()._queue_is_shut(s)

    def _decode(self, s: Scheduler) -> Batch | None:
        """A decode step; from the first on, nobody joins but whose prompt is computed in part."""
        self._closed = s.chunked is None
        return super()._decode(s)
