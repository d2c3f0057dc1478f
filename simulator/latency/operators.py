"""Operators: device time of a step from measured kernels, put together layer by layer.

A step's tokens go through every layer's products, kernels between them and collectives; its rows
through attention; what samples through the LM head and the sampler. Each is a curve or a surface of
measured times (`simulator.operators`), and a step is their sum: one kernel after another on one
stream, no gaps between them, as in a replayed CUDA graph or where the host keeps ahead. With a
pipeline it is the way of one batch through all stages.

It does not know gaps between kernels launched one by one, overlap of communication with compute, or
the host. What it is asked beyond the measured range is counted by operator in `beyond`, and what was
never measured is said in `approximations`; a run's manifest holds both.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.latency.base import LatencyModel, StepShape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from simulator.operators.profile import Operator, OperatorProfile

# A step's curves are looked up by size; sizes come back, and those that do not are few per run.
KEPT = 1 << 16


class OperatorLatency(LatencyModel):
    """Device time from a profile of operators.

    Args:
        profile: read from a file, or condensed from tables.

    Attributes:
        profile: as given.
        beyond: how many steps the world went through that ask an operator beyond its measured range,
            by operator.
    """

    def __init__(self, profile: OperatorProfile) -> None:
        self.profile = profile
        self.beyond: Counter[str] = Counter()
        self._layers = profile.layers
        self._ranks = profile.parallel.attention_ranks
        self._attention = profile.attention
        self._lengths = self._attention.decode.skew_share > 0
        self._lengths_mixed = self._lengths or getattr(self._attention, "skew_share", 0.0) > 0
        self._sized = lru_cache(maxsize=KEPT)(self._sum)

    @property
    def approximations(self) -> tuple[str, ...]:
        """What is not measured, and what stands in for it."""
        return self.profile.approximations

    def step_ns(self, shape: StepShape) -> int:
        """Nanoseconds of one forward pass: the sum of its operators, rounded; 0 without any row."""
        tokens = shape.decode_requests
        for new, _ in shape.prefill:
            tokens += new
        return self._step_ns(shape, tokens, tokens * self._ranks)

    def rank_step_ns(self, shape: StepShape, group_tokens: int) -> int:
        """The same for one of several ranks that share experts and step together.

        `step_ns` takes every rank to have as many tokens as this one; here `group_tokens` is what
        they have in all. A rank without a row still runs its experts; it takes 0 only where no rank
        has any.
        """
        tokens = shape.decode_requests + sum(new for new, _ in shape.prefill)
        return self._step_ns(shape, tokens, group_tokens)

    def _step_ns(self, shape: StepShape, tokens: int, group_tokens: int) -> int:
        prefill, requests, kv_tokens, sampled, kv_lens = shape
        if not group_tokens:
            return 0
        sized = self._sized(tokens, group_tokens, sampled, bool(prefill))
        if prefill:
            asked = self._lengths_mixed and requests > 0
            longest = int(kv_lens().max()) if asked else 0
            attention = self._attention.extend_ns(prefill, requests, kv_tokens, longest)
        elif requests:
            longest = int(kv_lens().max()) if self._lengths else 0
            attention = self._attention.decode.at(requests, kv_tokens, longest)
        else:
            attention = 0.0
        names = sized.beyond + self._attention.beyond(prefill, requests, kv_tokens)
        if names:
            self.beyond.update(names)
        return round(sized.ns + self._layers * attention)

    def decode_steps_ns(
        self, requests: int, kv_tokens: int, steps: int, kv_lens: Callable[[], NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """See `LatencyModel.decode_steps_ns`. Only attention grows from step to step."""
        sized = self._sized(requests, requests * self._ranks, requests, False)
        ahead = np.arange(steps, dtype=np.int64)
        read = kv_tokens + requests * ahead
        longest = ahead + (int(kv_lens().max()) + 1 if self._lengths else 0)
        # the same operations in the same order as in `step_ns`, so the same rounding
        attention = self._attention.decode.over(requests, read, longest)
        exact: NDArray[np.int64] = np.rint(sized.ns + self._layers * attention).astype(np.int64)
        return exact

    def took(self, requests: int, kv_tokens: int, steps: int) -> None:
        """See `LatencyModel.took`."""
        for name in self._sized(requests, requests * self._ranks, requests, False).beyond:
            self.beyond[name] += steps
        # KV only grows: where the last step is inside the measured range, all are
        if self._attention.beyond((), requests, kv_tokens + requests * (steps - 1)):
            for step in range(steps):
                names = self._attention.beyond((), requests, kv_tokens + requests * step)
                self.beyond.update(names)

    def flags(self) -> Mapping[str, int]:
        """See `LatencyModel.flags`: by operator."""
        return {f"{name} beyond its measured range": n for name, n in sorted(self.beyond.items())}

    def parts(self, shape: StepShape) -> dict[str, float]:
        """Nanoseconds of a step by operator, not rounded; counts nothing as beyond its range."""
        prefill, requests, kv_tokens, sampled, kv_lens = shape
        if not prefill and not requests:
            return {}
        tokens = requests + sum(new for new, _ in prefill)
        phase = "extend" if prefill else "decode"
        found: dict[str, float] = {}
        for operator in self.profile.operators:
            if operator.phase in ("any", phase):
                size = _size(operator, tokens, tokens * self._ranks, sampled)
                found[operator.name] = operator.count * operator.curve.at(size)
        longest = int(kv_lens().max()) if requests and (self._lengths or self._lengths_mixed) else 0
        if prefill:
            one = self._attention.extend_ns(prefill, requests, kv_tokens, longest)
        else:
            one = self._attention.decode.at(requests, kv_tokens, longest)
        found["attention"] = self._layers * one
        return found

    def _sum(self, tokens: int, expert_tokens: int, sampled: int, extend: bool) -> _Sized:
        other = "decode" if extend else "extend"
        ns = 0.0
        beyond: list[str] = []
        for operator in self.profile.operators:
            if operator.phase == other:
                continue
            size = _size(operator, tokens, expert_tokens, sampled)
            ns += operator.count * operator.curve.at(size)
            if operator.measured and operator.curve.beyond(size):
                beyond.append(operator.name)
        return _Sized(ns, tuple(beyond))


class _Sized(NamedTuple):
    """Operators that depend on a step's sizes alone: their time, and which are out of range."""

    ns: float
    beyond: tuple[str, ...]


def _size(operator: Operator, tokens: int, expert_tokens: int, sampled: int) -> int:
    match operator.per:
        case "token":
            return tokens * operator.unit
        case "expert_token":
            return expert_tokens * operator.unit
    return sampled * operator.unit
