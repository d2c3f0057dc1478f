"""Matrix products: a curve over rows for any (n, k), measured or not.

The tables hold the same rows m for each weight shape (n, k). A shape that was measured keeps its own
times. Another is kriged: at each m, the logarithm of measured over work is taken as alike for shapes
alike in n and k, with one covariance for all m, so one small system of equations serves a shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from simulator.operators.curve import Curve
from simulator.operators.kriging import krige
from simulator.operators.tables import TableError
from simulator.operators.work import Work, fit_sum

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Chosen by leaving every fifth shape out (H200): anything within a factor of two does as well.
SCALES: Final = np.array([2.0, 4.0])
NOISE: Final = 0.1
TILE: Final = 64
WIDTHS: Final = {"bfloat16": 2, "float16": 2, "fp8": 1, "fp8_block": 1}
OUTPUT_BYTES: Final = 2


class GemmTable:
    """Measured products of one precision.

    Args:
        table: columns gemm_dtype, m, n, k, ns.
        dtype: `bfloat16`, `fp8` (scaled per tensor) or `fp8_block`.

    Raises:
        TableError: where the table has none of that precision; lists those it has.
    """

    def __init__(self, table: pd.DataFrame, dtype: str) -> None:
        rows = table[table["gemm_dtype"] == dtype]
        if rows.empty or dtype not in WIDTHS:
            known = ", ".join(sorted(set(table["gemm_dtype"]) & set(WIDTHS)))
            raise TableError(f"no products in {dtype!r}; there are: {known}")
        wide = rows.pivot_table(index=["n", "k"], columns="m", values="ns")
        wide = wide.dropna(axis="columns", thresh=int(0.9 * len(wide))).dropna()
        self.sizes = wide.columns.to_numpy(float)
        self.shapes = np.array(wide.index.to_list(), float)
        self.ns = wide.to_numpy(float)
        self._width = WIDTHS[dtype]
        self._index = {(int(n), int(k)): i for i, (n, k) in enumerate(self.shapes)}
        self.floor, self.flop, self.byte = self._fit()
        self._residuals = np.log(self.ns) - np.log(self._works(self.shapes))

    def _fit(self) -> tuple[float, float, float]:
        n, k = self.shapes[:, :1], self.shapes[:, 1:]
        m = 0.5 * (self.sizes + TILE * np.ceil(self.sizes / TILE))[None]
        flops = 2 * m * n * k
        traffic = self._width * (n * k + m * k) + OUTPUT_BYTES * m * n
        terms = np.stack([np.ones(flops.size), flops.ravel(), traffic.ravel()])
        floor, flop, byte = fit_sum(terms, self.ns.ravel())
        return float(floor), float(flop), float(byte)

    def _works(self, shapes: Floats) -> Floats:
        works = [self.work(int(n), int(k)) for n, k in shapes]
        return np.array([[w.at(m) for m in self.sizes] for w in works])

    def work(self, n: int, k: int) -> Work:
        """What a product with an (n, k) weight does, over rows."""
        return Work(
            floor=self.floor,
            compute=2 * n * k * self.flop,
            fixed=n * k * self._width * self.byte,
            traffic=(k * self._width + n * OUTPUT_BYTES) * self.byte,
            tile=TILE,
        )

    def curve(self, n: int, k: int) -> tuple[Curve, str | None]:
        """Nanoseconds over rows, and a remark where (n, k) lies outside the measured shapes."""
        work = self.work(n, k)
        row = self._index.get((n, k))
        if row is not None:
            return Curve.measured(work, self.sizes, self.ns[row]), None
        wanted = np.log([[n, k]])
        residual = krige(np.log(self.shapes), self._residuals, wanted, scales=SCALES, noise=NOISE)[
            0
        ]
        ns = np.exp(residual) * np.array([work.at(m) for m in self.sizes])
        low, high = self.shapes.min(axis=0), self.shapes.max(axis=0)
        outside = [
            f"{name} {size} (measured {int(a)} to {int(b)})"
            for name, size, a, b in zip("nk", (n, k), low, high, strict=True)
            if not a <= size <= b
        ]
        remark = f"product with {', '.join(outside)}: extrapolated" if outside else None
        return Curve.measured(work, self.sizes, ns), remark
