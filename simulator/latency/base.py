"""The one question of a latency model: how long will the device take for this batch?

A world describes a batch as a `StepShape`, a handful of numbers, and asks `LatencyModel.step_ns`.
Every model answers behind this interface, whatever it is built from: datasheets, tables of measured
kernels, recorded steps. A model sees no request, no token and no clock, and knows nothing of the
host's own work, which `simulator.host` accounts for. An answer depends on the shape alone, but for
`simulator.latency.replayed`, which goes through a run in its order.

A model that stands on measurements also says how far a run left them: `flags` counts the steps it
went through by what was not measured, `approximations` tells what holds for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray


class StepShape(NamedTuple):
    """What a batch is for a latency model.

    Attributes:
        prefill: `(new_tokens, cached_tokens)` of each prefill row: tokens computed in this step,
            and tokens whose KV is already there and is attended to.
        decode_requests: decode rows, one new token each.
        decode_kv_tokens: KV entries all decode rows read together, each row's new token included.
        sampled: rows that sample a token, the rows the LM head runs on. A prefill chunk that is not
            its prompt's last samples none.
        decode_kv_lens: makes the KV length of each decode row, int64 of shape `(decode_requests,)`
            and of sum `decode_kv_tokens`; called only by a model that needs the lengths.
    """

    prefill: Sequence[tuple[int, int]]
    decode_requests: int
    decode_kv_tokens: int
    sampled: int
    decode_kv_lens: Callable[[], NDArray[np.int64]]


class LatencyModel(Protocol):
    """Device time of forward passes."""

    def step_ns(self, shape: StepShape) -> int:
        """Nanoseconds the device needs for one forward pass over a batch.

        Rounded once, here; never negative; 0 for a batch with no row. The same shape gives the same
        answer on every call and platform. The world goes through every step it asks for here.
        """
        ...

    def decode_steps_ns(
        self, requests: int, kv_tokens: int, steps: int, kv_lens: Callable[[], NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """Nanoseconds of consecutive decode steps of the same requests: int64, shape (steps,).

        Exactly what `step_ns` answers for each step, where each request is one token longer than in
        the step before. This asks it one by one; a model that can answer faster does. It only looks
        ahead: how many of the steps the world then goes through, `took` says.

        Args:
            requests: rows.
            kv_tokens: KV entries all rows read together in the first step.
            steps: how many.
            kv_lens: makes the KV length of each row in the step before the first.
        """
        import numpy as np

        def lens(step: int) -> Callable[[], NDArray[np.int64]]:
            return lambda: kv_lens() + (step + 1)

        shapes = (
            StepShape((), requests, kv_tokens + i * requests, requests, lens(i))
            for i in range(steps)
        )
        return np.fromiter((self.step_ns(shape) for shape in shapes), np.int64, steps)

    def took(self, requests: int, kv_tokens: int, steps: int) -> None:
        """The world went through the first `steps` of the decode steps it looked at ahead.

        Args:
            requests: as given to `decode_steps_ns`.
            kv_tokens: as given there.
            steps: how many; may be fewer than were asked for.
        """
        del requests, kv_tokens, steps  # a model that counts nothing has no use for them

    def flags(self) -> Mapping[str, int]:
        """How many steps the world went through that no measurement covers, by what they exceed.

        Empty for a model that claims none.
        """
        return {}

    @property
    def approximations(self) -> tuple[str, ...]:
        """What holds of every answer and is not measured, each in a sentence."""
        return ()
