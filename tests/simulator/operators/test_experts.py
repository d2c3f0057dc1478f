"""Experts that were not measured: like those that one GPU sees as alike, and no others."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from simulator.operators.kriging import krige
from simulator.operators.moe import ROUTING, ExpertShape, ExpertTable
from simulator.operators.tuned_kernels import tuned

TOKENS = [1, 8, 64, 512, 4096]
SPLITS = [(tp, ep) for tp in (1, 2, 4, 8, 16, 32) for ep in (1, 2, 4, 8, 16)]
# each: hidden width, inner width, experts taken, experts
MODELS = [(2048, 768, 8, 128), (4096, 1536, 8, 128), (5120, 8192, 1, 16)]
# tuned, and of its neighbours none
ALONE = ExpertShape(*MODELS[2], 8, 1)
TUNED = tuned("SGLang", "NVIDIA H200", "bfloat16")


def measured(shape: ExpertShape, kernel: str, tokens: int) -> float:
    """A made-up GPU: twice as slow where the width is no multiple of 16, or by another kernel."""
    weights = shape.experts * 3 * shape.hidden_size * shape.inner * 2
    ns = 20_000 + weights / 4000 + tokens * shape.topk * weights / shape.num_experts / 500
    ns *= 2 if shape.inner % 16 else 1
    ns *= 0.5 if (shape.experts, shape.inner) in TUNED else 1
    return ns * (3 if kernel == "other_cutlass" else 1)


def table(kernels: dict[int, str] | None = None) -> pd.DataFrame:
    """Every split of every model; `kernels` names those of a model that are not the usual one."""
    rows = []
    for i, model in enumerate(MODELS):
        kernel = (kernels or {}).get(i, "fused_moe_triton")
        for split in SPLITS:
            shape = ExpertShape(*model, *split)
            rows += [
                (*shape, "bfloat16", ROUTING, "SGLang", "NVIDIA H200", kernel, n, ns)
                for n in TOKENS
                for ns in [measured(shape, kernel, n)]
            ]
    columns = ["hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"]
    columns += ["moe_dtype", "distribution", "framework", "device", "kernel_source"]
    return pd.DataFrame(rows, columns=[*columns, "num_tokens", "ns"])


def off(shape: ExpertShape, whole: pd.DataFrame, kernel: str = "fused_moe_triton") -> float:
    """How far the curve of a shape is from the truth when all its rows are left out."""
    keys = ["hidden_size", "inter_size", "moe_tp_size", "moe_ep_size"]
    wanted = (shape.hidden_size, shape.inter_size, shape.tp, shape.ep)
    left = whole[~(whole[keys] == np.array(wanted)).all(axis=1)]
    curve, remark = ExpertTable(left, "bfloat16").curve(shape)
    assert remark is not None
    assert "not measured" in remark
    assert all(curve.at(a) <= curve.at(b) for a, b in pairwise(range(1, 5000, 7)))
    errors = [curve.at(n) / measured(shape, kernel, n) - 1 for n in TOKENS]
    return float(np.abs(errors).mean())


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(ExpertShape(*MODELS[0], 8, 2), id="as its neighbours"),
        pytest.param(ExpertShape(*MODELS[0], 32, 4), id="a width that is no multiple of 16"),
        pytest.param(ALONE, id="tuned"),
    ],
)
def test_a_split_that_was_not_measured_is_foretold(shape: ExpertShape) -> None:
    assert off(shape, table()) < 0.1


def test_without_knowing_what_is_tuned_a_tuned_split_is_not() -> None:
    whole = table().assign(device="a GPU of which no list is known")
    assert off(ALONE, whole) > 0.5


def test_experts_are_foretold_from_their_own_kernel() -> None:
    whole = table({0: "other_cutlass"})
    assert off(ExpertShape(*MODELS[0], 8, 4), whole, "other_cutlass") < 0.1
    assert off(ExpertShape(*MODELS[1], 8, 4), whole) < 0.1


@pytest.mark.parametrize("split", [(5, 1), (1, 3), (1, 256)])
def test_a_split_that_leaves_a_rest_is_refused(split: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"must divide"):
        ExpertTable(table(), "bfloat16").curve(ExpertShape(*MODELS[0], *split))


def test_equal_work_on_one_gpu_has_equal_axes() -> None:
    one, two = ExpertShape(2048, 768, 8, 128, 1, 4), ExpertShape(2048, 1536, 8, 128, 2, 4)
    assert one.axes(tuned=False) == pytest.approx(two.axes(tuned=False))
    assert one.axes(tuned=False) != pytest.approx(one.axes(tuned=True))


def test_tuned_kernels_are_known_by_framework_gpu_and_precision() -> None:
    assert (128, 768) in tuned("SGLang", "NVIDIA H200", "bfloat16")
    assert (128, 96) in tuned("VLLM", "NVIDIA H200", "bfloat16")
    assert (128, 96) not in tuned("sglang", "NVIDIA H200", "bfloat16")
    assert tuned("sglang", "NVIDIA B200", "bfloat16") == frozenset()


def test_a_step_along_one_axis_is_carried_over_by_a_separable_covariance() -> None:
    at = np.array([(x, flag) for x in range(6) for flag in (0, 1)], float)
    values = 0.1 * at[:, 0] + 0.5 * at[:, 1]
    out = (at == (3, 1)).all(axis=1)
    errors = [
        krige(
            at[~out], values[~out], at[out], scales=np.full(2, 8.0), noise=1e-4, separable=separable
        )
        - values[out]
        for separable in (True, False)
    ]
    assert abs(errors[0][0]) < 0.02 < abs(errors[1][0])
