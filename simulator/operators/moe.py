"""Routed experts: a curve over tokens for one way to split one kind of experts.

A row of the tables is a fused kernel on one GPU: both grouped products and what is between, for
`num_tokens` tokens of the whole group and the experts that this GPU holds. How tokens spread over
experts is part of the measurement: `balanced`, or a power law of an exponent. A configuration that
was not measured is kriged from the others, as weight shapes of plain products are, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from simulator.operators.curve import Curve
from simulator.operators.kriging import krige
from simulator.operators.tables import TableError
from simulator.operators.work import Work, fit_sum

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

WIDTHS: Final = {"bfloat16": 2, "float16": 2, "fp8": 1, "fp8_block": 1}
KEYS: Final = ["hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"]
# What engines' traffic looks like to experts is between even and this; the collection's own default.
ROUTING: Final = "power_law_1.2"
# in natural logarithms; chosen by leaving configurations out (H200)
SCALES: Final = np.full(7, 4.0)
NOISE: Final = 0.01


class ExpertShape(NamedTuple):
    """Experts and how they are split: named as the tables name them."""

    hidden_size: int
    inter_size: int
    topk: int
    num_experts: int
    tp: int
    ep: int

    def sizes(self) -> Floats:
        """What one GPU sees: width, inner width, experts, and experts taken per token.

        Then what it cannot see but feels: the share of experts a token takes, and both splits, since
        uneven routing loads GPUs unevenly.
        """
        here = (self.hidden_size, self.inter_size / self.tp, self.num_experts / self.ep)
        share = self.topk / self.num_experts
        return np.array([*here, self.topk / self.ep, share, self.tp, self.ep])


class ExpertTable:
    """Measured experts of one precision and routing.

    Raises:
        TableError: where nothing is measured for that; lists what is.
    """

    def __init__(self, table: pd.DataFrame, dtype: str, routing: str = ROUTING) -> None:
        rows = table[(table["moe_dtype"] == dtype) & (table["distribution"] == routing)]
        if rows.empty or dtype not in WIDTHS:
            pairs = table[["moe_dtype", "distribution"]].drop_duplicates().to_numpy()
            known = sorted(f"{d} {r}" for d, r in pairs if d in WIDTHS)
            raise TableError(f"no experts in {dtype} {routing}; there are: {', '.join(known)}")
        # Where a shape was measured with several kernels, that of the larger part of the table.
        common = rows["kernel_source"].value_counts().index
        order = rows["kernel_source"].map({name: i for i, name in enumerate(common)})
        rows = rows.assign(order=order).sort_values("order", kind="stable")
        rows = rows.drop_duplicates([*KEYS, "num_tokens"])
        wide = rows.pivot_table(index=KEYS, columns="num_tokens", values="ns").dropna()
        self.tokens = wide.columns.to_numpy(float)
        self.shapes = [ExpertShape(*(int(x) for x in key)) for key in wide.index]
        self.ns = wide.to_numpy(float)
        self._width = WIDTHS[dtype]
        self.floor, self.flop, self.byte = self._fit()

    def _fit(self) -> tuple[float, float, float]:
        flops, traffic = [], []
        for shape in self.shapes:
            work = self._work(shape, 1.0, 1.0, 1.0)
            touched = 1 - work.miss**self.tokens
            flops.append(work.compute * self.tokens)
            traffic.append(work.fixed * touched + work.traffic * self.tokens)
        terms = np.stack([np.ones(self.ns.size), np.ravel(flops), np.ravel(traffic)])
        floor, flop, byte = fit_sum(terms, self.ns.ravel())
        return float(floor), float(flop), float(byte)

    def _work(self, shape: ExpertShape, floor: float, flop: float, byte: float) -> Work:
        hidden, inner, experts, taken = (float(x) for x in shape.sizes()[:4])
        matrices = 3 * hidden * inner
        return Work(
            floor=floor,
            compute=taken * 2 * matrices * flop,
            fixed=experts * matrices * self._width * byte,
            traffic=taken * 2 * (2 * hidden + 3 * inner) * byte,
            miss=1 - min(1.0, shape.topk / shape.num_experts),
        )

    def work(self, shape: ExpertShape) -> Work:
        """What such experts do, over tokens."""
        return self._work(shape, self.floor, self.flop, self.byte)

    def curve(self, shape: ExpertShape) -> tuple[Curve, str | None]:
        """Nanoseconds over tokens of the group, and a remark where the shape was not measured."""
        work = self.work(shape)
        if shape in self.shapes:
            return Curve.measured(work, self.tokens, self.ns[self.shapes.index(shape)]), None
        at = np.log([other.sizes() for other in self.shapes])
        works = np.array([[self.work(s).at(n) for n in self.tokens] for s in self.shapes])
        wanted = np.log([shape.sizes()])
        residual = krige(at, np.log(self.ns / works), wanted, scales=SCALES, noise=NOISE)[0]
        ns = np.exp(residual) * np.array([work.at(n) for n in self.tokens])
        nearest = self.shapes[int(np.argmin(np.abs(at - wanted).sum(axis=1)))]
        return Curve.measured(work, self.tokens, ns), (
            f"experts {_say(shape)}: not measured, kriged; the nearest is {_say(nearest)}"
        )


def _say(shape: ExpertShape) -> str:
    return (
        f"{shape.topk} of {shape.num_experts}, {shape.hidden_size} x {shape.inter_size}, "
        f"tp {shape.tp}, ep {shape.ep}"
    )
