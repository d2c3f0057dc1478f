"""Measurements left out are met within the goals; `benchmarks.operators` does all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.operators import GOALS, attend, errors, experts, gemm, read
from simulator.operators import Tables
from simulator.operators.moe import KEYS

AIC = Path(__file__).resolve().parents[3].parent / "shared" / "gpu" / "aic"
pytestmark = pytest.mark.skipif(not AIC.is_dir(), reason="no operator tables here")


@pytest.fixture(scope="module")
def tables() -> dict[str, object]:
    return dict(read(Tables.open("h200", "sglang", root=AIC)))


@pytest.mark.parametrize(
    ("name", "size", "some"),
    [
        ("gemm", "m", {"k": [2048, 4096]}),
        ("prefill", "isl", {"num_key_value_heads": [8], "num_heads": [32, 40, 48, 64]}),
        ("decode", "step", {"num_key_value_heads": [8], "num_heads": [32, 40, 48, 64]}),
        ("moe", "num_tokens", {"hidden_size": [2048]}),
    ],
)
def test_every_fifth_size_is_met(
    tables: dict[str, object], name: str, size: str, some: dict[str, list[int]]
) -> None:
    table = tables[name]
    for column, values in some.items():
        table = table[table[column].isin(values)]  # type: ignore[index]
    table = table.reset_index(drop=True)  # type: ignore[attr-defined]
    out = table[size].isin(np.sort(table[size].unique())[2:-1:5])
    predict = {"gemm": gemm, "moe": experts}.get(name) or attend(name)  # type: ignore[arg-type]
    assert np.abs(errors(table, out, predict)).mean() < GOALS[name]


def test_splits_of_experts_left_out_are_met(tables: dict[str, object]) -> None:
    table = tables["moe"]
    table = table[table["hidden_size"].isin([2048, 2816, 4096])].reset_index(drop=True)  # type: ignore[index]
    keys = table.groupby(KEYS).ngroup()
    assert np.abs(errors(table, keys % 5 == 2, experts)).mean() < GOALS["moe"]


def test_weight_shapes_left_out_are_met(tables: dict[str, object]) -> None:
    table = tables["gemm"]
    out = (table["n"] * 7 + table["k"]) % 5 == 0  # type: ignore[index]
    assert np.abs(errors(table, out, gemm)).mean() < GOALS["gemm"]  # type: ignore[arg-type]
