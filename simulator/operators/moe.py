"""Routed experts: a curve over tokens for one way to split one kind of experts.

A row of the tables is a fused kernel on one GPU: both grouped products and what is between, for
`num_tokens` tokens of the whole group and the experts that this GPU holds. How tokens spread over
experts is part of the measurement: `balanced`, or a power law of an exponent.

A configuration that was not measured is kriged from the others of its kernel, and says so. The axes
are what one GPU sees: how the experts were split beside that adds nothing. Two of them are steps that
no smooth size explains: how finely the inner width divides into tiles (Triton cannot vectorise a
width that is no multiple of 16), and whether the engine has tuned tiles for it.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from simulator.operators.curve import Curve
from simulator.operators.kriging import krige
from simulator.operators.tables import TableError
from simulator.operators.tuned_kernels import tuned
from simulator.operators.work import Work, fit_sum

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

WIDTHS: Final = {"bfloat16": 2, "float16": 2, "fp8": 1, "fp8_block": 1}
KEYS: Final = ["hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"]
# What engines' traffic looks like to experts is between even and this; the collection's own default.
ROUTING: Final = "power_law_1.2"
# In natural logarithms, for all axes; chosen by leaving configurations out (H200, SGLang). Anything
# within a factor of two, axis by axis, does as well.
SCALE: Final = 8.0
NOISE: Final = 0.01
# the largest tile that an inner width may fill: what it divides by beyond that does not show
TILE: Final = 128
# what the tables call kernels that no list of tuned Triton tiles is about
OTHER_KERNELS: Final = ("cutlass", "marlin", "trtllm")


class ExpertShape(NamedTuple):
    """Experts and how they are split: named as the tables name them."""

    hidden_size: int
    inter_size: int
    topk: int
    num_experts: int
    tp: int
    ep: int

    @property
    def inner(self) -> int:
        """Inner width on one GPU."""
        return self.inter_size // self.tp

    @property
    def experts(self) -> int:
        """Experts on one GPU."""
        return self.num_experts // self.ep

    def axes(self, *, tuned: bool) -> Floats:
        """What makes times alike, as logarithms.

        What one GPU sees: width, inner width, experts, the largest tile that divides the inner width,
        and whether it is tuned. What it cannot see but feels: the share of experts a token takes, and
        over how many GPUs they are spread, since uneven routing loads GPUs unevenly.
        """
        share = self.topk / self.num_experts
        seen = (self.hidden_size, self.inner, self.experts, gcd(self.inner, TILE))
        return np.append(np.log([*seen, share, self.ep]), float(tuned))


class ExpertTable:
    """Measured experts of one precision and routing.

    Args:
        table: columns moe_dtype, distribution, those of `KEYS`, num_tokens, ns, framework, device
            and kernel_source.
        dtype: of the weights, one of `WIDTHS`.
        routing: how tokens spread over experts.

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
        kernels = rows.drop_duplicates(KEYS).set_index(KEYS)["kernel_source"]
        self._kernels = np.array([str(kernels[key]) for key in wide.index])
        self._tuned = tuned(str(rows["framework"].iloc[0]), str(rows["device"].iloc[0]), dtype)
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
        hidden, inner, experts = float(shape.hidden_size), float(shape.inner), float(shape.experts)
        taken = shape.topk / shape.ep
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
        """Nanoseconds over tokens of the group, and a remark where the shape was not measured.

        Raises:
            ValueError: for a split that leaves a rest.
        """
        if shape.inter_size % shape.tp or shape.num_experts % shape.ep:
            raise ValueError(
                f"experts {_say(shape)}: tp must divide the inner width and ep the experts"
            )
        work = self.work(shape)
        if shape in self.shapes:
            return Curve.measured(work, self.tokens, self.ns[self.shapes.index(shape)]), None
        kernel = self._kernel(shape)
        like = np.flatnonzero(self._kernels == kernel)
        known = [self.shapes[i] for i in like]
        at = np.array([self._axes(other, kernel) for other in known])
        wanted = self._axes(shape, kernel)[None]
        works = np.array([[self.work(s).at(n) for n in self.tokens] for s in known])
        residual = krige(
            at,
            np.log(self.ns[like] / works),
            wanted,
            scales=np.full(wanted.size, SCALE),
            noise=NOISE,
            separable=True,
        )[0]
        ns = np.exp(residual) * np.array([work.at(n) for n in self.tokens])
        nearest = known[int(np.argmin(np.abs(at - wanted).sum(axis=1)))]
        return Curve.measured(work, self.tokens, ns), (
            f"experts {_say(shape)}: not measured, kriged; the nearest is {_say(nearest)}"
        )

    def _kernel(self, shape: ExpertShape) -> str:
        """The kernel that would run: that of the same experts split otherwise, or the commonest.

        Engines choose by the model, and by whether experts are spread over GPUs at all.
        """
        pairs = list(zip(self.shapes, self._kernels, strict=True))
        same = [(other, name) for other, name in pairs if other[:4] == shape[:4]]
        spread = [(other, name) for other, name in same if (other.ep > 1) == (shape.ep > 1)]
        names, counts = np.unique([n for _, n in spread or same or pairs], return_counts=True)
        return str(names[counts.argmax()])

    def _axes(self, shape: ExpertShape, kernel: str) -> Floats:
        triton = not any(other in kernel for other in OTHER_KERNELS)
        is_tuned = triton and (shape.experts, shape.inner) in self._tuned
        return shape.axes(tuned=is_tuned)


def _say(shape: ExpertShape) -> str:
    return (
        f"{shape.topk} of {shape.num_experts}, {shape.hidden_size} x {shape.inter_size}, "
        f"tp {shape.tp}, ep {shape.ep}"
    )
