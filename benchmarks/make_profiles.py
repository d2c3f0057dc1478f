"""Makes the operator profiles that ship, `simulator/profiles/<gpu>.<model>.json`.

    python -m benchmarks.make_profiles --tables DIR [--gpu h200 ...] [--out simulator/profiles]

DIR as for `benchmarks.operators`. Each GPU's tables are those of the framework and version with the
most measured rows of what a model needs (bfloat16, one GPU): SGLang 0.5.14 on the H200 and H100,
SGLang 0.5.10 on the A100. The hold-out errors saved in a profile are the operators' of that
collection over all shapes, as `benchmarks.operators` finds them (every fifth size).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.operators import attend, experts, folds, gemm, read
from policies.model_shape import ModelShape
from simulator.operators.from_tables import condense
from simulator.operators.tables import Tables

COLLECTIONS = {
    "h200": ("sglang", "0.5.14"),
    "h100": ("sglang", "0.5.14"),
    "a100": ("sglang", "0.5.10"),
}
MODELS = ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "Qwen/Qwen3-30B-A3B")
PROFILES = Path(__file__).resolve().parents[1] / "simulator" / "profiles"


def hold_out(tables: Tables) -> dict[str, float]:
    """Mean absolute error at every fifth size, by operator."""
    mine = read(tables)
    heads = ["num_heads", "num_key_value_heads"]
    plans = {
        "gemm": ("m", ["n", "k"], gemm),
        "prefill": ("isl", heads, attend("prefill")),
        "decode": ("step", heads, attend("decode")),
        "moe": ("num_tokens", ["hidden_size", "num_experts"], experts),
    }
    found = {}
    for name, (size, shape, predict) in plans.items():
        _, errors = next(folds(name, mine[name], size, shape, np.inf, predict))
        found[name] = round(float(np.abs(errors).mean()), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--tables", type=Path, help="folder with a folder per GPU")
    parser.add_argument("--gpu", nargs="+", choices=COLLECTIONS, default=list(COLLECTIONS))
    parser.add_argument("--out", type=Path, default=PROFILES)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for gpu in arguments.gpu:
        framework, version = COLLECTIONS[gpu]
        tables = Tables.open(gpu, framework, version, root=arguments.tables)
        errors = hold_out(tables)
        for name in MODELS:
            model = ModelShape.load(name)
            kept = {k: e for k, e in errors.items() if k != "moe" or model.moe is not None}
            profile = condense(tables, model).model_copy(update={"errors": kept})
            path = arguments.out / f"{gpu}.{name.rsplit('/', 1)[-1].lower()}.json"
            profile.save(path)
            print(f"{path}: {path.stat().st_size} bytes, {kept}", flush=True)


if __name__ == "__main__":
    main()
