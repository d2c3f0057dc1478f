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
        self._groups: list[Iterable[Request]] = []  # in the batch, not yet looked at

    def hold(self, *groups: Iterable[Request]) -> None:
        """Count requests that are in the batch. Nobody is looked at before a slot is asked for."""
        if self._limit is not None:
            self._groups += groups

    def let_through(self, waiting: Iterable[Request]) -> Iterator[Request]:
        """The requests in turn, without those who would need one slot more than there is by then."""
        if self._limit is None:
            return iter(waiting)
        return (request for request in waiting if self._has_room(request))

    def _has_room(self, request: Request) -> bool:
        if request.lora_id is None and not self._base_takes_slot:
            return True
        for requests in self._groups:
            self._held.update(held.lora_id for held in requests)
        self._groups.clear()
        if not self._base_takes_slot:
            self._held.discard(None)
        limit = self._limit
        return request.lora_id in self._held or limit is None or len(self._held) < limit
