"""The devices of data-parallel ranks that step together.

Ranks that share a model's experts cross a barrier in every layer, so a step begins when the last rank
has launched its part, and ends for all at once. A rank that sleeps has no part and holds nobody up; its
GPU still runs its experts on the tokens of the others.

It knows neither schedulers nor requests. How tokens are exchanged it leaves to the latency model; where
that does not know of groups, a step takes as long as its slowest rank.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.latency.base import StepShape
from simulator.latency.operators import OperatorLatency

if TYPE_CHECKING:
    from collections.abc import Sequence

    import simpy

    from simulator.clock import Clock
    from simulator.device import Ticket
    from simulator.latency.base import LatencyModel


class _Part(NamedTuple):
    """A rank's part of a step: what it computes, and who is told when it is done."""

    shape: StepShape
    ticket: Ticket
    done: simpy.Event


NO_ROWS = StepShape((), 0, 0, 0, lambda: np.zeros(0, dtype=np.int64))


class Lockstep:
    """See the module.

    Args:
        clock: the simulation's.
        latency: of one rank's GPUs.
        ranks: how many.
        padded_up_to: where no rank has more tokens than this, all are padded to the most that one has,
            as CUDA graphs need it.
    """

    def __init__(self, clock: Clock, latency: LatencyModel, ranks: int, padded_up_to: int) -> None:
        self._clock = clock
        self.latency = latency
        self._parts: list[deque[_Part]] = [deque() for _ in range(ranks)]
        self._awake = [True] * ranks
        self._padded_up_to = padded_up_to
        self._free_at_ns = 0
        self.busy_ns = 0

    def submit(self, rank: int, shape: StepShape, ticket: Ticket) -> simpy.Event:
        """A rank has launched its part of a step; returns what happens when that is done."""
        done = self._clock.event()
        self._parts[rank].append(_Part(shape, ticket, done))
        self._advance()
        return done

    def sleeps(self, rank: int) -> None:
        """A rank has nothing to do until it is told otherwise."""
        self._awake[rank] = False
        self._advance()

    def wakes(self, rank: int) -> None:
        """It has."""
        self._awake[rank] = True

    def _advance(self) -> None:
        """Run the steps that everyone awake has launched."""
        while any(self._parts) and all(
            parts or not awake for parts, awake in zip(self._parts, self._awake, strict=True)
        ):
            heads = [parts.popleft() if parts else None for parts in self._parts]
            shapes = [NO_ROWS if part is None else part.shape for part in heads]
            start = max(self._clock.now_ns, self._free_at_ns)
            duration = self.step_ns(shapes)
            self._free_at_ns = start + duration
            self.busy_ns += duration
            for part in heads:
                if part is not None:
                    part.ticket.start_ns, part.ticket.end_ns = start, self._free_at_ns
                    self._tell(part.done)

    def _tell(self, done: simpy.Event) -> None:
        ends = self._clock.timeout(self._free_at_ns - self._clock.now_ns)
        assert ends.callbacks is not None

        def tell(_: simpy.Event) -> None:
            done.succeed()

        ends.callbacks.append(tell)

    def step_ns(self, shapes: Sequence[StepShape]) -> int:
        """Nanoseconds of a step whose ranks compute these."""
        tokens = [s.decode_requests + sum(new for new, _ in s.prefill) for s in shapes]
        latency = self.latency
        if not isinstance(latency, OperatorLatency):
            return max(latency.step_ns(shape) for shape in shapes)
        most = max(tokens)
        together = len(tokens) * most if most <= self._padded_up_to else sum(tokens)
        return max(latency.rank_step_ns(shape, together) for shape in shapes)
