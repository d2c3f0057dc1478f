"""Attention of a step from a table that holds prefill and decode rows in one kernel.

vLLM's FlashAttention 2 runs mixed batches as one kernel, in which decode rows cost up to five times
what they do alone: their KV is not split over multiprocessors, and a lone query fills a tile meant
for a hundred. No sum of two tables shows that, so mixed steps are read from measurements of the mix:
prefill chunk, its cached tokens, decode rows and their KV length, linear in each between measured
values. Decode alone has its own surface, which a step also is whose prompts have one token left each.

The table holds one prefill row. Several count as one with as many new tokens and (query, key) pairs,
or fewer new tokens where the pairs are too few for that. Beyond the grid times grow as work does.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from simulator.operators.curve import check_axis
from simulator.operators.uniform_attention import DecodeAttention  # noqa: TC001 - a field of a model

if TYPE_CHECKING:
    from collections.abc import Sequence


class MixedWork(BaseModel):
    """The sum of a floor, the new tokens, their pairs, and the KV that decode rows read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    floor: float = Field(gt=0)
    token: float = Field(ge=0)
    pair: float = Field(ge=0)
    kv: float = Field(ge=0)

    def at(self, chunk: float, cached: float, rows: float, length: float) -> float:
        """Nanoseconds of one step."""
        token = self.token * (chunk + rows)
        pair = self.pair * chunk * (cached + 0.5 * chunk)
        kv = self.kv * rows * length
        return self.floor + token + pair + kv


class MixedAttention(BaseModel):
    """One layer's attention.

    Attributes:
        decode: steps without prefill.
        axes: prefill chunk, cached tokens, decode rows (from 0), KV length of each.
        ns: times at their crossings, flattened, the last axis fastest.
        work: what a mixed step does.
        skew_share: in a mixed step, of what the longest row would add if all were as long.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["mixed"]
    decode: DecodeAttention
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    ns: tuple[float, ...]
    work: MixedWork
    skew_share: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for axis in self.axes:
            check_axis("axes", axis, len(axis))
        if int(np.prod([len(a) for a in self.axes])) != len(self.ns):
            raise ValueError(
                f"ns has {len(self.ns)} times for axes of {[len(a) for a in self.axes]}"
            )
        table = np.array(self.ns).reshape([len(a) for a in self.axes])
        falls = any((np.diff(table, axis=i) < 0).any() for i in range(4))
        if falls or (table <= 0).any():
            raise ValueError("ns must be above 0 and never fall along any axis")
        return self

    @cached_property
    def _strides(self) -> tuple[int, int, int]:
        _, b, c, d = (len(a) for a in self.axes)
        return b * c * d, c * d, d

    def extend_ns(
        self, prefill: Sequence[tuple[int, int]], requests: int, kv_tokens: int, longest: int
    ) -> float:
        """Nanoseconds of a layer of a step with prefill rows; see the module."""
        if all(new == 1 for new, _ in prefill):
            # one query a row, whatever it is of: the kernel of decode rows
            lengths = [cached + 1 for _, cached in prefill]
            rows, kv = requests + len(lengths), kv_tokens + sum(lengths)
            return self.decode.at(rows, kv, max(longest, *lengths))
        chunk, cached = as_one(prefill)
        if not requests:
            return self._at(chunk, cached, 0, 0.0)
        mean = self._at(chunk, cached, requests, kv_tokens / requests)
        if not self.skew_share:
            return mean
        worst = self._at(chunk, cached, requests, float(longest))
        return mean + self.skew_share * (worst - mean)

    def _at(self, chunk: float, cached: float, rows: float, length: float) -> float:
        wanted = (chunk, cached, rows, length)
        inside = [min(max(x, a[0]), a[-1]) for x, a in zip(wanted, self.axes, strict=True)]
        places = [_place(a, x) for a, x in zip(self.axes, inside, strict=True)]
        ns, (s0, s1, s2) = self.ns, self._strides
        (i, u), (j, v), (k, w), (m, z) = places
        total = 0.0
        for di, a in ((0, 1 - u), (s0, u)):
            for dj, b in ((0, 1 - v), (s1, v)):
                for dk, c in ((0, 1 - w), (s2, w)):
                    share = a * b * c
                    if share:
                        at = i * s0 + di + j * s1 + dj + k * s2 + dk + m
                        right = ns[at + 1] if z else 0.0
                        total += share * ((1 - z) * ns[at] + z * right)
        if any(x > a[-1] for x, a in zip(wanted, self.axes, strict=True)):
            total *= self.work.at(*wanted) / self.work.at(*inside)
        return total

    def beyond(
        self, prefill: Sequence[tuple[int, int]], requests: int, kv_tokens: int
    ) -> tuple[str, ...]:
        """Names of what a step asks beyond its measured range."""
        if all(new == 1 for new, _ in prefill):
            rows = requests + len(prefill)
            kv = kv_tokens + sum(cached + 1 for _, cached in prefill)
            outside = rows > 0 and self.decode.surface.beyond(rows, kv / rows)
            return ("decode_attention",) if outside else ()
        length = kv_tokens / requests if requests else 0.0
        wanted = (*as_one(prefill), requests, length)
        outside = any(x > a[-1] for x, a in zip(wanted, self.axes, strict=True))
        return ("mixed_attention",) if outside else ()


def as_one(prefill: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """One (new, cached) row in place of several, with as many pairs."""
    if len(prefill) == 1:
        new, cached = prefill[0]
        return float(new), float(cached)
    new = sum(n for n, _ in prefill)
    pairs = 0.5 * sum(n * (n + 2 * c) for n, c in prefill)
    chunk = min(float(new), sqrt(2 * pairs))
    return chunk, max(0.0, pairs / chunk - 0.5 * chunk)


def _place(axis: tuple[int, ...], x: float) -> tuple[int, float]:
    """The interval x lies in, and how far along it."""
    i = min(bisect_right(axis, x), len(axis) - 1) - 1
    if i < 0:
        return 0, 0.0
    return i, (x - axis[i]) / (axis[i + 1] - axis[i])
