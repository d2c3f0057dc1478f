"""Print the tables of both runs: see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import benchmarks.validation_steps as package
from benchmarks.validation_llmservingsim import MODEL, data_folder
from benchmarks.validation_steps.followed import following, stretches
from benchmarks.validation_steps.kept import kept
from benchmarks.validation_steps.tables import (
    as_all_others,
    as_its_like,
    decode_table,
    prefill_differences,
    prefill_table,
    prefills,
    sums,
)
from benchmarks.validation_steps.told import served, told
from policies.model_shape import ModelShape
from simulator.latency.operators import OperatorLatency
from simulator.operators import read_llmservingsim

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.validation_steps.followed import Following

ROOMY, FULL = "RTXPRO6000", "RTX4090"
TOKENS = (0, 256, 512, 768, 1024, 1280, 1536, 1792, 2047, 2048)
# decode steps beside one with prefill in a stretch, at most: each adds its own uncertainty
BESIDE_ROOMY, BESIDE_FULL = 1, 4
# of the first launch's lateness, to see what else becomes of the means
PARTS = (0.0, 0.25, 0.5, 0.75)
# the preset, which follows vLLM 0.32; what simulates a run of 0.19 frees to the tail
NEWER = ("policy.batching_options.reuse_unhashed_first=true",)


def main() -> None:
    """Print the tables."""
    data = data_folder(package.__doc__)
    runs = {gpu: data / "bench" / "examples" / gpu / MODEL for gpu in (ROOMY, FULL)}
    profiles = {
        gpu: data / "profiler" / "perf" / gpu / "meta-llama" / MODEL / "bf16" for gpu in runs
    }
    _roomy(runs[ROOMY], runs[FULL], profiles[ROOMY])
    _full(runs[FULL], profiles[FULL])


def _roomy(folder: Path, like: Path, profile: Path) -> None:
    latency = _latency(profile)
    found, misplaced = told(served(folder, like, profile), latency)
    steps = sum(len(s.steps) for s in found)
    print(f"{ROOMY}, told from its requests\n")
    print(f"{steps} steps; {misplaced} first or last tokens at other steps than theirs")
    decode_table(found, latency)
    alone = as_its_like(found)
    # the first step of all was a cold one
    prefill_differences(prefills(found[1:], latency, alone, beside=BESIDE_ROOMY))


def _full(folder: Path, profile: Path) -> None:
    rows = kept(folder)
    late = rows[1].scheduled - rows[0].scheduled
    follow = [following(folder, profile, rows, part * late) for part in PARTS]
    newer = following(folder, profile, rows, late, NEWER)
    cold = following(folder, profile, rows, late)
    whole = following(folder, profile, rows, late, continued=True)
    print(f"\n\n{FULL}, followed; its first launch returned {1e3 * late:.0f} ms late\n")
    print(f"{'':40}{'pre-':>9}{'steps with first':>18}{'of them':>9}{'first':>7}{'seconds':>10}")
    print(f"{'steps':>40}{'emptions':>9}{'or last tokens':>18}{'wrong':>9}{'':7}{'as full':>10}")
    _agreement("blocks as 0.32 frees them", newer)
    _agreement("as 0.19: all to the tail", cold)
    _agreement("  and answers as continued", whole)
    print(f"\n{'mean error':32}{'TTFT':>9}{'TPOT':>9}{'E2E':>9}")
    for part, found in zip(PARTS, follow, strict=True):
        _errors(f"first launch {1e3 * part * late:.0f} ms late", found)
    _errors(f"first launch {1e3 * late:.0f} ms late", cold)
    _errors("  and answers as continued", whole)
    _errors("  or blocks as 0.32 frees them", newer)
    latency = _latency(profile)
    held = stretches(whole.followed, whole.where)
    sums(held, latency)
    decode_table(held, latency)
    others = as_all_others(held, latency)
    prefill_table(prefills(held, latency, others, beside=BESIDE_FULL), TOKENS)


def _latency(profile: Path) -> OperatorLatency:
    return OperatorLatency(read_llmservingsim(profile, ModelShape.load(f"meta-llama/{MODEL}")))


def _agreement(name: str, found: Following) -> None:
    run, where = found.followed.run, found.where
    wrong = len({*where.apart, *where.early})
    first = "" if where.first_wrong is None else where.first_wrong
    seconds = f"{sum(found.memory)}/{len(found.memory)}"
    print(
        f"{name:32}{len(run.steps):8}{run.requests['retractions'].sum():9}"
        f"{len(where.instants):18}{wrong:9}{first:>7}{seconds:>10}"
    )


def _errors(name: str, found: Following) -> None:
    print(f"{name:32}" + "".join(f"{error:+9.2%}" for error in found.errors))


if __name__ == "__main__":
    main()
