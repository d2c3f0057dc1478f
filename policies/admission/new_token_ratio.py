"""The new-token ratio: which share of the tokens that running requests may still ask for to expect.

Reserving all of them wastes memory, reserving none retracts requests. SGLang starts high, lets the
share fall a little with every decode step that had memory enough, and raises it after a retraction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policies.request import Request


class NewTokenRatio:
    """See the module.

    Args:
        conservativeness: scales the initial ratio, which is capped at 1.
        init: ratio to start from.
        min_factor: the smallest ratio, as a share of the initial one.
        decay_steps: decode steps from the initial ratio to the smallest.
        retract_decode_steps: decode steps a retraction makes room for.
    """

    def __init__(
        self,
        conservativeness: float = 1.0,
        init: float = 0.7,
        min_factor: float = 0.14,
        decay_steps: int = 600,
        retract_decode_steps: int = 20,
    ) -> None:
        self.initial = min(init * conservativeness, 1.0)
        self.minimum = min(self.initial * min_factor, 1.0)
        self._decay = (self.initial - self.minimum) / decay_steps
        self._retract_decode_steps = retract_decode_steps
        self.value = self.initial

    def decay(self) -> None:
        """A decode step had memory enough."""
        if self.value != self.minimum:
            self.value = max(self.value - self._decay, self.minimum)

    def decay_by(self, steps: int) -> list[float]:
        """So many decode steps had memory enough; returns the ratio after each in which it fell."""
        falling: list[float] = []
        while self.value != self.minimum and len(falling) < steps:
            self.decay()  # one by one: rounding depends on the order
            falling.append(self.value)
        return falling

    def reset(self) -> None:
        """The scheduler is idle."""
        self.value = self.initial

    def after_retraction(self, kept: Sequence[Request]) -> None:
        """Start over from how far the requests that were kept have got."""
        produced = sum(r.output_len for r in kept) + self._retract_decode_steps * len(kept)
        self.value = min(1.0, produced / (sum(r.max_new_tokens for r in kept) + 1))
