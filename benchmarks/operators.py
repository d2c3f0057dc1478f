"""How far the operator models are from measurements they were not shown.

    python -m benchmarks.operators --tables DIR [--gpu h200] [--framework sglang] [--profiles DIR]

DIR holds AIConfigurator's operator tables (`<gpu>/<family>/<framework>/<version>/*.parquet`); without
it the installed package `aiconfigurator-core` is read. All in bfloat16, attention at head dimension
128. Ways to leave measurements out, each error the mean of |predicted / measured - 1|:

- *sizes*: every fifth size (rows, lengths, tokens), over the five ways to begin, ends excepted;
- *shapes*: every fifth weight shape, head configuration or way to split experts, whole;
- *models*: of experts, all ways to split those of one model, over the models;
- *largest*: all above a size, which is then beyond the range the model saw;
- *noise*: not a model: the same rows measured under another framework.

With `--profiles`, LLMServingSim's (`<gpu>/<model>/<variant>/tp<n>/*.csv`): a step's attention where
prefill and decode mix, at the combinations between those the model keeps, and where KV is uneven.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from simulator.operators.attention import AttentionTable, Phase
from simulator.operators.gemm import GemmTable
from simulator.operators.llmservingsim import attention
from simulator.operators.moe import ROUTING, ExpertTable
from simulator.operators.tables import TableError, Tables

GOALS = {"gemm": 0.08, "prefill": 0.06, "decode": 0.06, "moe": 0.07, "largest": 0.12}
LARGEST_ROWS, LARGEST_PROMPT, LARGEST_KV, LARGEST_TOKENS = 8192, 8192, 16384, 4096
HEAD_DIM = 128

Predict = Callable[[pd.DataFrame, pd.DataFrame], np.ndarray]


def errors(table: pd.DataFrame, out: pd.Series[bool], predict: Predict) -> np.ndarray:
    """Relative errors at the rows left out, from a model of the others."""
    held = table[out]
    return np.asarray(predict(table[~out], held) / held["ns"].to_numpy() - 1)


def gemm(known: pd.DataFrame, wanted: pd.DataFrame) -> np.ndarray:
    model = GemmTable(known, "bfloat16")
    found = np.empty(len(wanted))
    for (n, k), at in wanted.reset_index().groupby(["n", "k"]).groups.items():
        curve = model.curve(int(n), int(k))[0]
        found[at] = [curve.at(int(m)) for m in wanted["m"].to_numpy()[at]]
    return found


def attend(phase: Phase) -> Predict:
    def predict(known: pd.DataFrame, wanted: pd.DataFrame) -> np.ndarray:
        model = AttentionTable(known, phase, HEAD_DIM)
        lengths = (wanted["isl"] if phase == "prefill" else wanted["step"] + 1).to_numpy(float)
        batch = wanted["batch_size"].to_numpy()
        found = np.empty(len(wanted))
        heads = wanted.reset_index().groupby(["num_heads", "num_key_value_heads"]).groups
        for (query, kv), at in heads.items():
            surface = model.surface(int(query), int(kv))[0]
            cuts = {int(b): surface.cut(int(b)) for b in set(batch[at])}
            found[at] = [cuts[int(b)].at(n) for b, n in zip(batch[at], lengths[at], strict=True)]
        return found

    return predict


def experts(known: pd.DataFrame, wanted: pd.DataFrame) -> np.ndarray:
    from simulator.operators.moe import KEYS, ExpertShape

    model = ExpertTable(known, "bfloat16", ROUTING)
    found = np.empty(len(wanted))
    for key, at in wanted.reset_index().groupby(KEYS).groups.items():
        curve = model.curve(ExpertShape(*(int(x) for x in key)))[0]
        found[at] = [curve.at(int(t)) for t in wanted["num_tokens"].to_numpy()[at]]
    return found


def folds(
    name: str, table: pd.DataFrame, size: str, shape: list[str], largest: float, predict: Predict
) -> Iterator[tuple[str, np.ndarray]]:
    """Errors of each way to leave out."""
    sizes = np.sort(table[size].unique())
    found = [
        errors(table, table[size].isin(set(sizes[begin::5]) - {sizes[0], sizes[-1]}), predict)
        for begin in range(5)
    ]
    yield f"{name}, every fifth size", np.concatenate(found)
    keys = pd.MultiIndex.from_frame(table[shape])
    shapes = keys.unique().sort_values()
    found = [
        errors(table, pd.Series(keys.isin(shapes[begin::5]), table.index), predict)
        for begin in range(5)
    ]
    yield f"{name}, whole shapes", np.concatenate(found)
    yield f"{name}, largest ({size} > {largest:.0f})", errors(table, table[size] > largest, predict)


def whole(table: pd.DataFrame, columns: list[str], predict: Predict) -> np.ndarray:
    """Errors with all rows left out that agree in some columns, over what these can be."""
    groups = table.groupby(columns).ngroup()
    return np.concatenate([errors(table, groups == group, predict) for group in groups.unique()])


def noise(table: pd.DataFrame, other: pd.DataFrame, keys: list[str]) -> np.ndarray:
    both = table.merge(other, on=keys, suffixes=("", "_other"))
    return np.asarray(both["ns_other"] / both["ns"] - 1)


def show(name: str, found: np.ndarray, goal: float | None = None) -> None:
    mean = np.abs(found).mean()
    verdict = "" if goal is None else f"   goal {goal:4.0%} {'met' if mean <= goal else 'MISSED'}"
    print(
        f"    {name:<44} {len(found):>6} points   mean |error| {mean:6.2%}"
        f"   median {np.median(np.abs(found)):6.2%}   bias {found.mean():+6.2%}{verdict}",
        flush=True,
    )


def plain(table: pd.DataFrame) -> pd.DataFrame:
    rows = (
        (table["window_size"] == 0)
        & (table["attn_dtype"] == "bfloat16")
        & (table["kv_cache_dtype"] == "bfloat16")
        & (table["head_dim"] == HEAD_DIM)
    )
    return table[rows].reset_index(drop=True)


def read(tables: Tables) -> dict[str, pd.DataFrame]:
    products, moe = tables.read("gemm", "gemm"), tables.read("moe", "moe")
    moe = moe[(moe["moe_dtype"] == "bfloat16") & (moe["distribution"] == ROUTING)]
    kernel = moe["kernel_source"].value_counts().index[0]
    return {
        "gemm": products[products["gemm_dtype"] == "bfloat16"].reset_index(drop=True),
        "prefill": plain(tables.read("attention", "context_attention")),
        "decode": plain(tables.read("attention", "generation_attention")),
        "moe": moe[moe["kernel_source"] == kernel].reset_index(drop=True),
    }


def kernels(gpu: str, framework: str, root: Path | None) -> None:
    tables = Tables.open(gpu, framework, root=root)
    print(tables.source)
    mine = read(tables)
    heads = ["num_heads", "num_key_value_heads"]
    split = ["hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"]
    plans: list[tuple[str, str, list[str], float, Predict]] = [
        ("gemm", "m", ["n", "k"], LARGEST_ROWS, gemm),
        ("prefill", "isl", heads, LARGEST_PROMPT, attend("prefill")),
        ("decode", "step", heads, LARGEST_KV, attend("decode")),
        ("moe", "num_tokens", split, LARGEST_TOKENS, experts),
    ]
    for name, size, shape, largest, predict in plans:
        table = mine[name]
        for title, found in folds(name, table, size, shape, largest, predict):
            show(title, found, GOALS["largest" if "largest" in title else name])
    show("moe, whole models", whole(mine["moe"], split[:4], experts))
    other = next((f for f in ("vllm", "sglang") if f != framework), "vllm")
    try:
        theirs = read(Tables.open(gpu, other, root=root))
    except TableError as error:
        print(f"    no noise floor: {error}")
        return
    keys = {"gemm": ["m", "n", "k"], "prefill": ["batch_size", "isl", *heads]}
    keys |= {"decode": ["batch_size", "step", *heads], "moe": [*split, "num_tokens"]}
    for name, columns in keys.items():
        show(
            f"{name}, noise: {other} measured, not a model",
            noise(mine[name], theirs[name], columns),
        )


def mixes(folder: Path) -> None:
    """LLMServingSim's attention between the combinations kept, and with uneven KV."""
    table = pd.concat([pd.read_csv(p) for p in folder.glob("attention.csv*")])
    skew = pd.concat([pd.read_csv(p) for p in folder.glob("skew.csv*")])
    model = attention(table, skew, 1, 1)
    axes = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"]
    between = table[~table[axes].map(lambda v: v & (v - 1) == 0).all(axis=1)]
    inside = (between["kv_prefill"] <= model.axes[1][-1]) & (
        between["n_decode"] <= model.axes[2][-1]
    )
    between = between[inside & (between["prefill_chunk"] > 0)]
    print(
        f"LLMServingSim {'/'.join(folder.parts[-5:])}; skew shares {model.decode.skew_share:.3f} "
        f"(decode), {model.skew_share:.3f} (mixed)"
    )
    predicted = np.array(
        [model.extend_ns([(c, p)], n, n * d, d) for c, p, n, d in between[axes].to_numpy()]
    )
    if len(between):
        show("mixed, combinations between", predicted / (between["time_us"] * 1e3).to_numpy() - 1)
    for title, mixed in (("decode alone", False), ("mixed", True)):
        rows = skew[(skew["pc"] > 0) == mixed]
        base = rows["t_mean_us"].to_numpy()
        share = model.skew_share if mixed else model.decode.skew_share
        real = rows["t_skew_us"].to_numpy()
        show(f"uneven KV, {title}: as if even", base / real - 1)
        weighed = base + share * (rows["t_max_us"].to_numpy() - base)
        show(f"uneven KV, {title}: with the longest's share", weighed / real - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--tables", type=Path, help="folder with a folder per GPU")
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--framework", default="sglang")
    parser.add_argument("--profiles", type=Path, help="LLMServingSim's profiler/perf folder")
    arguments = parser.parse_args()
    kernels(arguments.gpu, arguments.framework, arguments.tables)
    if arguments.profiles is not None:
        for folder in sorted(p.parent for p in arguments.profiles.rglob("skew.csv*")):
            mixes(folder)


if __name__ == "__main__":
    main()
