"""Attention of a step from tables of uniform batches.

Prefill and decode rows are taken as two kernels, one after the other, as SGLang launches them where
a step does not mix and as AIConfigurator adds them where it does. The tables hold neither unequal
lengths nor cached prefixes; three rules stand in for them:

- *Unequal prompts*: rows sorted by length leave as they end, so that a batch takes the longest one's
  time alone, and in addition, up to each further one's length, what one more row adds there. Equal
  rows give the table's figure.
- *Cached prefix*: n new tokens over c cached ones are as many (query, key) pairs as a prompt of
  sqrt(n * (n + 2c)) tokens, and count as one; a batch takes no less than decoding as many rows over
  the same KV, which is what reading it takes.
- *Unequal KV in decode*: rows count as if all had the mean length, plus `skew_share` of what the
  longest would add if all were as long. Where no measurement says how much, the share is 0.
"""

from __future__ import annotations

from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from simulator.operators.surface import Surface  # noqa: TC001 - a field of a model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from simulator.operators.surface import Cut


class DecodeAttention(BaseModel):
    """One layer's attention of decode rows.

    Attributes:
        surface: uniform batches over rows and KV length.
        skew_share: see the module.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    surface: Surface
    skew_share: float = Field(0.0, ge=0, le=1)

    @cached_property
    def _cuts(self) -> dict[int, Cut]:
        return {}

    def cut(self, rows: int) -> Cut:
        """The surface at a number of rows, kept."""
        cut = self._cuts.get(rows)
        if cut is None:
            cut = self._cuts[rows] = self.surface.cut(rows)
        return cut

    def at(self, rows: int, kv_tokens: int, longest: int) -> float:
        """Nanoseconds of `rows` rows over `kv_tokens` in all, the longest of `longest`."""
        cut = self.cut(rows)
        mean = cut.at(kv_tokens / rows)
        if not self.skew_share:
            return mean
        return mean + self.skew_share * (cut.at(float(longest)) - mean)

    def over(
        self, rows: int, kv_tokens: NDArray[np.int64], longest: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """`at` of each step, the same bits; shape (steps,)."""
        cut = self.cut(rows)
        mean = cut.over(kv_tokens / rows)
        if not self.skew_share:
            return mean
        return mean + self.skew_share * (cut.over(longest.astype(float)) - mean)


class UniformAttention(BaseModel):
    """One layer's attention, from a surface of prefill and one of decode."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["uniform"]
    prefill: Surface
    decode: DecodeAttention

    @cached_property
    def _cuts(self) -> dict[int, Cut]:
        return {}

    def _cut(self, rows: int) -> Cut:
        cut = self._cuts.get(rows)
        if cut is None:
            cut = self._cuts[rows] = self.prefill.cut(rows)
        return cut

    def extend_ns(
        self, prefill: Sequence[tuple[int, int]], requests: int, kv_tokens: int, longest: int
    ) -> float:
        """Nanoseconds of a layer of a step with prefill rows; see the module."""
        decode = self.decode.at(requests, kv_tokens, longest) if requests else 0.0
        return self.prefill_ns(prefill) + decode

    def prefill_ns(self, prefill: Sequence[tuple[int, int]]) -> float:
        """Nanoseconds of the prefill rows, (new, cached) each."""
        if len(prefill) == 1:
            new, cached = prefill[0]
            alone = self._cut(1).at(as_prompt(new, cached))
            return max(alone, self.decode.cut(1).at(new + cached)) if cached else alone
        lengths = sorted((as_prompt(new, cached) for new, cached in prefill), reverse=True)
        total, before = 0.0, 0.0
        # rows 1..i are at work up to the i-th longest: a cut at i rows is entered at the length of
        # the row that ends next, and left at its own
        for i, length in enumerate(lengths, start=1):
            if i == len(lengths) or lengths[i] < length:
                cut = self._cut(i)
                ends = cut.at(length)
                begins = cut.at(lengths[i]) if i < len(lengths) else 0.0
                total += ends - begins
                before = ends
        total = max(total, before)
        cached = sum(c for _, c in prefill)
        if cached:
            rows, kv = len(prefill), sum(n for n, _ in prefill) + cached
            total = max(total, self.decode.cut(rows).at(kv / rows))
        return total

    def beyond(
        self, prefill: Sequence[tuple[int, int]], requests: int, kv_tokens: int
    ) -> tuple[str, ...]:
        """Names of what a step asks beyond its measured range."""
        names: tuple[str, ...] = ()
        if prefill:
            longest = max(as_prompt(new, cached) for new, cached in prefill)
            mean = sum(as_prompt(new, cached) for new, cached in prefill) / len(prefill)
            if longest > self.prefill.lengths[-1] or self.prefill.beyond(len(prefill), mean):
                names += ("prefill_attention",)
        if requests and self.decode.surface.beyond(requests, kv_tokens / requests):
            names += ("decode_attention",)
        return names


def as_prompt(new: int, cached: int) -> float:
    """Length of a prompt, nothing of it cached, with as many (query, key) pairs."""
    return float(new) if not cached else sqrt(float(new) * (new + 2 * cached))
