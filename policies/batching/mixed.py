"""Mixed chunk: decode rows ride along with chunked prefill (Agrawal et al., "Sarathi-Serve", OSDI 2024).

As prefill-first, but a step with prefill also decodes every running request, if memory allows; the
decode rows count against the step's token budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.batch import Batch, Mode
from policies.batching.prefill_first import PrefillFirst
from policies.registry import BATCHINGS

if TYPE_CHECKING:
    from policies.batch import PrefillItem
    from policies.scheduler import Scheduler


@BATCHINGS.register("mixed")
class MixedChunk(PrefillFirst):
    """See the module and `Batching`."""

    shares_steps = True

    def _compose(self, s: Scheduler, items: tuple[PrefillItem, ...]) -> Batch:
        """Prefill and decode in one batch; where decode does not fit, it sits this step out."""
        if s.running.leave_finishing():
            s.running.full = False
        rows = self.kv.plan_round(s.running) if s.running.requests else None
        if rows is None:
            return super()._compose(s, items)
        return Batch(s.iteration, Mode.MIXED, items, rows, chunked=s.chunked)
