"""How far the roofline is from measured kernels.

    python -m benchmarks.roofline_vs_tables FOLDER

FOLDER holds AIConfigurator's operator tables (`<gpu>/<family>/<framework>/<version>/*.parquet`, as
in the `systems/data` folder of the PyPI package `aiconfigurator-core`). The measured kernels of one
model are put together layer by layer and set against the parts of the roofline that mean them:
matrix products over 1 to 8,192 tokens, prefill attention, decode attention. The tables hold no
elementwise kernels and no launch gaps; of the overhead only the attention kernel's floor shows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from policies.model_shape import ModelShape
from simulator.devices import Device
from simulator.latency.base import StepShape
from simulator.latency.roofline import RooflineLatency

GPUS = {"h200_sxm": "h200", "h100_sxm": "h100", "a100_sxm": "a100"}
MODELS = ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B")
# What an attention kernel takes however little it does; part of the roofline's overhead per layer.
KERNEL_FLOOR_MS = 0.010
GEMM_BANDS = ((1, 64), (65, 512), (513, 8192))
DECODE_BANDS_MIB = ((0, 16), (16, 128), (128, 512), (512, 16384))
PREFILL_BANDS = ((1, 512), (513, 2048), (2049, 16384), (16385, 1 << 20))


def nothing() -> np.ndarray:
    raise AssertionError("the roofline asks for no lengths")


def prefill(batch: int, tokens: int) -> StepShape:
    return StepShape([(tokens, 0)] * batch, 0, 0, 0, nothing)


def decode(batch: int, kv_tokens: int) -> StepShape:
    return StepShape((), batch, kv_tokens, batch, nothing)


def describe(name: str, predicted_ms: np.ndarray, measured_ms: np.ndarray) -> str:
    ratio = predicted_ms / measured_ms
    return (
        f"    {name:<28} {len(ratio):>5} points   mean |error| {np.abs(ratio - 1).mean():6.1%}"
        f"   median predicted/measured {np.median(ratio):5.2f}"
    )


def product_ms(table: pd.Series[float], n: int, k: int) -> pd.Series[float]:
    """Latency of an (m, k) by (k, n) product over m, linear in n or k between measured shapes."""
    sizes = np.array(sorted(set(table.index.get_level_values("n"))))

    def neighbours(size: int) -> list[tuple[int, float]]:
        above = int(np.searchsorted(sizes, size))
        if sizes[above] == size:
            return [(size, 1.0)]
        low, high = int(sizes[above - 1]), int(sizes[above])
        share = (size - low) / (high - low)
        return [(low, 1 - share), (high, share)]

    return sum(a * b * table[x, y] for x, a in neighbours(n) for y, b in neighbours(k))


def gemms(table: pd.DataFrame, model: ModelShape, roofline: RooflineLatency) -> list[str]:
    """The four products of a layer against the linear part."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    hidden, inner = model.hidden_size, model.intermediate_size
    shapes = [(queries + 2 * keys, hidden), (hidden, queries), (2 * inner, hidden), (hidden, inner)]
    latency = table[table.gemm_dtype == "bfloat16"].groupby(["n", "k", "m"]).latency.median()
    layer = sum(product_ms(latency, n, k) for n, k in shapes).dropna() * model.layers
    tokens = layer.index.to_numpy()
    predicted = np.array([roofline.parts(prefill(1, int(m))).linear * 1e-6 for m in tokens])
    return [
        describe(f"products, {low}..{high} tokens", predicted[inside], layer.to_numpy()[inside])
        for low, high in GEMM_BANDS
        if (inside := (tokens >= low) & (tokens <= high)).any()
    ]


def attention_rows(table: pd.DataFrame, model: ModelShape) -> pd.DataFrame:
    if "window_size" in table:
        table = table[table.window_size == 0]
    return table[
        (table.attn_dtype == "bfloat16")
        & (table.kv_cache_dtype == "bfloat16")
        & (table.num_heads == model.heads)
        & (table.num_key_value_heads == model.kv_heads)
        & (table.head_dim == model.head_dim)
    ]


def prefills(table: pd.DataFrame, model: ModelShape, roofline: RooflineLatency) -> list[str]:
    rows = attention_rows(table, model)
    measured = rows.latency.to_numpy() * model.layers
    pairs = zip(rows.batch_size, rows.isl, strict=True)
    floor_ms = model.layers * KERNEL_FLOOR_MS
    predicted = np.array(
        [
            roofline.parts(prefill(int(b), int(n))).prefill_attention * 1e-6 + floor_ms
            for b, n in pairs
        ]
    )
    tokens = (rows.batch_size * rows.isl).to_numpy()
    return [
        describe(f"prefill, {low}..{high} tokens", predicted[inside], measured[inside])
        for low, high in PREFILL_BANDS
        if (inside := (tokens >= low) & (tokens <= high)).any()
    ]


def decodes(table: pd.DataFrame, model: ModelShape, roofline: RooflineLatency) -> list[str]:
    rows = attention_rows(table, model)
    measured = rows.latency.to_numpy() * model.layers
    kv_tokens = (rows.batch_size * (rows.step + 1)).to_numpy()
    floor_ms = model.layers * KERNEL_FLOOR_MS
    predicted = np.array(
        [roofline.parts(decode(1, int(n))).decode_attention * 1e-6 + floor_ms for n in kv_tokens]
    )
    mib = kv_tokens * model.kv_bytes_per_token() / model.layers / 2**20
    return [
        describe(f"decode, {low}..{high} MiB a layer", predicted[inside], measured[inside])
        for low, high in DECODE_BANDS_MIB
        if (inside := (mib >= low) & (mib < high)).any()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="folder with <gpu>/gemm and <gpu>/attention")
    folder: Path = parser.parse_args().folder
    if not any((folder / gpu).is_dir() for gpu in GPUS):
        print(f"skipped: {folder} has none of {', '.join(GPUS)}")
        return
    comparisons = (
        ("gemm", "gemm_perf.parquet", gemms),
        ("attention", "context_attention_perf.parquet", prefills),
        ("attention", "generation_attention_perf.parquet", decodes),
    )
    for gpu, device in GPUS.items():
        for version in sorted((folder / gpu / "gemm").glob("*/*")):
            framework = f"{version.parent.name} {version.name}"
            for name in MODELS:
                model = ModelShape.load(name)
                roofline = RooflineLatency(model, Device.load(device))
                print(f"{device}, {framework}, {name}")
                for family, file, compare in comparisons:
                    path = folder / gpu / family / version.parent.name / version.name / file
                    if path.is_file():
                        print(*compare(pd.read_parquet(path), model, roofline), sep="\n")


if __name__ == "__main__":
    main()
