"""Which LoRA adapters a batch holds, and whether one more fits beside them.

An engine keeps the adapters of a batch in a fixed number of slots on the device. A request whose
adapter would need one more is passed over, and later ones may go ahead of it. Neither SGLang nor vLLM
bounds how often: while others keep the slots busy, a request for a rare adapter may starve.

It does not know what adapters weigh or how long loading one takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from policies.request import Request


class AdapterSlots:
    """The adapters of one batch, while it is being filled.

    Args:
        limit: slots, or None for no limit.
        base_takes_slot: whether requests without an adapter need a slot, too.
    """

    def __init__(self, limit: int | None, *, base_takes_slot: bool) -> None:
        self._limit = limit
        self._base_takes_slot = base_takes_slot
        self._held: set[str | None] = set()

    def hold(self, *groups: Iterable[Request]) -> None:
        """Count requests that are in the batch. Nobody is looked at where there is no limit."""
        if self._limit is None:
            return
        for requests in groups:
            self._held.update(request.lora_id for request in requests)
        if not self._base_takes_slot:
            self._held.discard(None)

    def let_through(self, waiting: Iterable[Request]) -> Iterator[Request]:
        """The requests in turn, without those who would need one slot more than there is by then."""
        if self._limit is None:
            return iter(waiting)
        return (request for request in waiting if self._has_room(request))

    def _has_room(self, request: Request) -> bool:
        needs_slot = self._base_takes_slot or request.lora_id is not None
        limit = self._limit
        known = request.lora_id in self._held or not needs_slot
        return known or limit is None or len(self._held) < limit
