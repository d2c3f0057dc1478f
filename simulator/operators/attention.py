"""Attention: surfaces over sequences and lengths for one head configuration, measured or not.

The tables hold uniform batches: prefill without a cached prefix, decode of rows with one KV length.
A surface is kriged from the eight head configurations nearest to the wanted one, itself first where
it was measured: that fills the crossings no table has, and evens out noise that neighbours lack.
Only plain attention is taken (no sliding window), in one precision of queries and KV.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from simulator.operators.kriging import krige
from simulator.operators.monotone import monotone
from simulator.operators.surface import Surface
from simulator.operators.tables import TableError
from simulator.operators.work import BatchWork, fit_sum

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Phase = Literal["prefill", "decode"]
NEAREST: Final = 8
# in natural logarithms of heads, KV heads, rows and length; chosen by leaving lengths out (H200)
SCALES: Final = np.array([2.0, 2.0, 2.0, 2.0])
NOISE: Final = 0.02
TILE: Final = 128
# In prefill a KV head shared by many queries matters less than the queries do.
KV_DISTANCE: Final = 0.7


def _steps(first: int, last: int) -> list[int]:
    """Powers of two and the values half-way between, as far as `last`."""
    sizes = {last}
    power = 1
    while power <= last:
        sizes |= {power, power * 3 // 2}
        power *= 2
    return sorted(s for s in sizes if first <= s <= last)


class AttentionTable:
    """Measured attention of one phase and head dimension.

    Args:
        table: columns batch_size, isl or step, num_heads, num_key_value_heads, head_dim,
            attn_dtype, kv_cache_dtype, window_size, ns.
        phase: which of the two tables it is.
        head_dim: width of a head.
        kv_dtype: `bfloat16` or `fp8`.

    Raises:
        TableError: where nothing is measured for that; lists what is.
    """

    def __init__(
        self, table: pd.DataFrame, phase: Phase, head_dim: int, kv_dtype: str = "bfloat16"
    ) -> None:
        plain = table[(table["window_size"] == 0) & (table["attn_dtype"] == "bfloat16")]
        rows = plain[(plain["head_dim"] == head_dim) & (plain["kv_cache_dtype"] == kv_dtype)]
        if rows.empty:
            known = sorted(
                {
                    f"{d} with {t}"
                    for d, t in zip(plain["head_dim"], plain["kv_cache_dtype"], strict=True)
                }
            )
            raise TableError(
                f"no {phase} attention of head dimension {head_dim} with KV in {kv_dtype!r}; "
                f"there are: {', '.join(known)}"
            )
        self.phase = phase
        self._width = head_dim
        length = rows["isl"] if phase == "prefill" else rows["step"] + 1
        columns = ("num_heads", "num_key_value_heads", "batch_size")
        query, kv, self.batch = (rows[c].to_numpy(float) for c in columns)
        self.length = length.to_numpy(float)
        self.heads = np.stack([query, kv], axis=1)
        self.ns = rows["ns"].to_numpy(float)
        self._coefficients = fit_sum(self._terms(query, kv, self.batch, self.length), self.ns)

    def _terms(self, query: Floats, kv: Floats, batch: Floats, length: Floats) -> Floats:
        """What a kernel does: launch, write outputs, read, compute."""
        out, tokens = batch * query * self._width, batch * length * self._width
        if self.phase == "prefill":
            pairs = tokens * query * (length + TILE)
            return np.stack([np.ones_like(out), out, tokens * (query + kv), pairs])
        return np.stack([np.ones_like(out), out, tokens * kv, tokens * query])

    def work(self, query: int, kv: int) -> BatchWork:
        """What a kernel with so many heads does, over rows and length."""
        floor, row, token, last = (float(c) for c in self._coefficients)
        width = self._width
        if self.phase == "prefill":
            pair, per_token = last * width * query, token * width * (query + kv)
        else:
            pair, per_token = 0.0, width * float(np.hypot(token * kv, last * query))
        return BatchWork(
            floor=floor, row=row * width * query, token=per_token, pair=pair, tile=TILE
        )

    def surface(self, query: int, kv: int) -> tuple[Surface, str | None]:
        """Nanoseconds over rows and length, and a remark where these heads were not measured."""
        known = np.unique(self.heads, axis=0)
        apart = np.abs(np.log(known / [query, kv])) @ np.array([1.0, KV_DISTANCE])
        near = known[np.argsort(apart, kind="stable")[:NEAREST]]
        used = (self.heads[:, None] == near[None]).all(axis=2).any(axis=1)
        at = np.column_stack([self.heads, self.batch, self.length])[used]
        work = np.empty(len(at))
        for heads in near:
            here = (at[:, :2] == heads).all(axis=1)
            form = self.work(int(heads[0]), int(heads[1]))
            work[here] = [form.at(b, n) for b, n in at[here, 2:]]
        form = self.work(query, kv)
        rows = _steps(1, int(at[:, 2].max()))
        lengths = _steps(1 if self.phase == "prefill" else 2, int(at[:, 3].max()))
        wanted = np.array([[query, kv, b, n] for b in rows for n in lengths], float)
        residual = krige(
            np.log(at), np.log(self.ns[used] / work), np.log(wanted), scales=SCALES, noise=NOISE
        )
        ns = np.exp(residual) * np.array([form.at(b, n) for _, _, b, n in wanted])
        smooth = np.rint(monotone(ns.reshape(len(rows), len(lengths))))
        closest = (at[:, :2] == near[0]).all(axis=1)
        surface = Surface(
            work=form,
            rows=tuple(rows),
            lengths=tuple(lengths),
            ns=tuple(tuple(float(t) for t in line) for line in smooth),
            most_tokens=int((at[closest, 2] * at[closest, 3]).max()),
        )
        if (near[0] == [query, kv]).all():
            return surface, None
        return surface, (
            f"{self.phase} attention with {query} heads and {kv} KV heads: not measured, kriged "
            f"from {NEAREST} others, the nearest {int(near[0][0])} and {int(near[0][1])}"
        )
