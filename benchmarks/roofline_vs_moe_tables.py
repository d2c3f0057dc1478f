"""How far the roofline's experts and latent attention are from measured kernels.

    python -m benchmarks.roofline_vs_moe_tables FOLDER

FOLDER as for `benchmarks.roofline_vs_tables`. The tables hold fused expert kernels under an even
routing and under power laws, and SGLang's absorbed latent attention; the roofline assumes uniform
routing. H200 and H100, SGLang 0.5.14 and vLLM 0.24.0, printed as mean absolute error and median of
predicted over measured. There is no table of expanded latent prefill: it is not compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.roofline_vs_tables import KERNEL_FLOOR_MS, decode, describe, prefill
from policies import ModelShape
from simulator.devices import Device
from simulator.latency.roofline import RooflineLatency

GPUS = {"h200_sxm": "h200", "h100_sxm": "h100"}
MODELS = (
    "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-235B-A22B",
    "mistralai/Mixtral-8x7B-v0.1",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct",
)
DTYPES = {"bfloat16": "bf16", "fp8_block": "fp8"}
TOKEN_BANDS = ((1, 4), (8, 32), (48, 256), (320, 2048), (3072, 1 << 20))
KV_BANDS = ((1, 65536), (65537, 524287), (524288, 1 << 30))


def experts(table: pd.DataFrame, model: ModelShape, device: str, dtype: str) -> list[str]:
    """One line for each distribution of routing and band of tokens."""
    moe = model.moe
    assert moe is not None
    rows = table[
        (table.moe_tp_size == 1)
        & (table.moe_ep_size == 1)
        & (table.moe_dtype == dtype)
        & (table.hidden_size == moe.hidden_size)
        & (table.inter_size == moe.inner_size)
        & (table.topk == moe.experts_per_token)
        & (table.num_experts == moe.experts)
    ]
    roofline = RooflineLatency(model, Device.load(device), weight_dtype=DTYPES[dtype])
    lines = []
    for distribution, group in rows.groupby("distribution"):
        measured = group.groupby("num_tokens").latency.median() * model.moe_layers
        tokens = measured.index.to_numpy()
        predicted = np.array([roofline.parts(prefill(1, int(n))).experts * 1e-6 for n in tokens])
        for low, high in TOKEN_BANDS:
            inside = (tokens >= low) & (tokens <= high)
            if inside.any():
                name = f"{distribution}, {low}..{high}"
                lines.append(describe(name, predicted[inside], measured.to_numpy()[inside]))
    return lines


def latent_decode(table: pd.DataFrame, device: str) -> list[str]:
    """Absorbed latent attention of DeepSeek-V3 against the decode part."""
    model = ModelShape.load("deepseek-ai/DeepSeek-V3")
    roofline = RooflineLatency(model, Device.load(device))
    rows = table[(table.num_heads == model.heads) & (table.kv_cache_dtype == "bfloat16")]
    kv_tokens = (rows.batch_size * (rows.step + 1)).to_numpy()
    measured = rows.latency.to_numpy() * model.layers
    floor_ms = model.layers * KERNEL_FLOOR_MS
    predicted = np.array(
        [roofline.parts(decode(1, int(n))).decode_attention * 1e-6 + floor_ms for n in kv_tokens]
    )
    return [
        describe(f"{low}..{high} KV tokens", predicted[inside], measured[inside])
        for low, high in KV_BANDS
        if (inside := (kv_tokens >= low) & (kv_tokens <= high)).any()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="folder with <gpu>/moe and <gpu>/mla")
    folder: Path = parser.parse_args().folder
    if not any((folder / gpu).is_dir() for gpu in GPUS):
        print(f"skipped: {folder} has none of {', '.join(GPUS)}")
        return
    for gpu, device in GPUS.items():
        for path in sorted((folder / gpu / "moe").glob("*/*/moe_perf.parquet")):
            table = pd.read_parquet(path)
            framework = f"{path.parent.parent.name} {path.parent.name}"
            for name in MODELS:
                for dtype in DTYPES:
                    print(f"{device}, {framework}, {name}, {dtype}, experts")
                    for line in experts(table, ModelShape.load(name), device, dtype):
                        print(line)
        for path in sorted((folder / gpu / "mla").glob("sglang/*/generation_mla_perf.parquet")):
            print(f"{device}, sglang {path.parent.name}, DeepSeek-V3, latent attention in decode")
            for line in latent_decode(pd.read_parquet(path), device):
                print(line)


if __name__ == "__main__":
    main()
