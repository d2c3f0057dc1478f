"""What of a workload a format cannot hold: counted while writing, an error unless it is accepted.

Names of requests are given anew by every reader and are no loss, nor are the token ids of texts
that were made from a key in the first place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.tokens import SyntheticTokens

if TYPE_CHECKING:
    from traces.workload import TraceRequest

_PLAIN = ("priority", "tenant", "extra_key", "routing_key", "lora_id", "sampling", "abort_ns")


class LossError(ValueError):
    """A workload holds what the format does not.

    Attributes:
        losses: what, and in how many requests.
    """

    def __init__(self, name: str, losses: dict[str, int]) -> None:
        self.losses = losses
        said = "; ".join(f"{what} ({n:,} requests)" for what, n in losses.items())
        super().__init__(
            f"the format {name} cannot hold {said}; write native, or accept the loss "
            "(--lossy, lossy=True)"
        )


class Losses:
    """Counts of what is lost, in the order in which it was met."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, what: str) -> None:
        """One more request loses this."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def of_fields(self, request: TraceRequest) -> None:
        """What formats of times, lengths, hashes and sessions cannot hold of any request."""
        for name in _PLAIN:
            if getattr(request, name) is not None:
                self.add(name)
        if request.max_new_tokens != len(request.output):
            self.add("max_new_tokens other than the output")
        if not request.ignore_eos:
            self.add("ignore_eos: false")
        if not isinstance(request.output, SyntheticTokens):
            self.add("token ids of the output")
