"""LLMServingSim's profiles, with prefill and decode in one attention kernel."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from policies.model_shape import ModelShape
from simulator.latency.base import LatencyModel, StepShape
from simulator.latency.operators import OperatorLatency
from simulator.operators import OperatorProfile, Parallel, read_llmservingsim
from simulator.operators.llmservingsim import Link
from simulator.operators.mixed_attention import as_one
from simulator.operators.tables import TableError

PERF = Path(__file__).resolve().parents[3].parent / "shared/gpu/llmservingsim/profiler/perf"
LLAMA = PERF / "RTXPRO6000" / "meta-llama" / "Llama-3.1-8B" / "bf16"
needs_profiles = pytest.mark.skipif(not PERF.is_dir(), reason="no profiles here")


@cache
def profile() -> OperatorProfile:
    return read_llmservingsim(LLAMA, ModelShape.load("meta-llama/Llama-3.1-8B"))


@needs_profiles
def test_a_layers_measured_time_is_in_the_step() -> None:
    dense = pd.read_csv(LLAMA / "tp1" / "dense.csv.gz")
    us = dense[(dense["layer"] == "gate_up_proj") & (dense["tokens"] == 64)]["time_us"].item()
    lens = np.full(64, 512)
    shape = StepShape((), 64, 64 * 512, 64, lambda: lens)
    part = OperatorLatency(profile()).parts(shape)["gate_up_proj"]
    assert part == pytest.approx(32 * us * 1e3, rel=0.03)


@needs_profiles
def test_a_product_takes_as_long_as_the_tile_or_the_captured_graph_it_fills_in_part() -> None:
    dense = pd.read_csv(LLAMA / "tp1" / "dense.csv.gz")
    measured = dense[dense["layer"] == "qkv_proj"].set_index("tokens")["time_us"] * 1e3
    product = next(o.curve for o in profile().operators if o.name == "qkv_proj")
    # above 256 by 16 tokens: a fifth more from 1280 to 1296, all of it at the first token
    assert measured[1296] > 1.15 * measured[1280]
    for tokens in (1281, 1290, 1296):
        assert product.at(tokens) == pytest.approx(measured[1296], rel=0.01)
    assert product.at(1280) == pytest.approx(measured[1280], rel=0.01)
    # below by 8: vLLM captures graphs of 64 and of 72 tokens, and of none between
    assert product.at(65) == product.at(72) > 1.05 * product.at(64)


@needs_profiles
def test_a_step_whose_prompts_have_one_token_left_is_a_decode_step() -> None:
    latency = OperatorLatency(profile())
    decode, all_but_one = np.full(128, 1200), np.full(127, 1200)

    def ns(prefill: tuple[tuple[int, int], ...], lens: np.ndarray) -> int:
        rows = len(lens)
        return latency.step_ns(StepShape(prefill, rows, int(lens.sum()), 128, lambda: lens))

    assert ns(((1, 1199),), all_but_one) == ns((), decode)
    assert ns(((2, 1198),), all_but_one) > 1.3 * ns((), decode)


@needs_profiles
def test_a_rank_without_rows_is_within_what_was_measured() -> None:
    attention = profile().attention
    assert attention.beyond((), 0, 0) == ()
    assert attention.beyond(((1, 10),), 0, 0) == ()
    assert attention.beyond(((1, 20_000),), 0, 0) == ("decode_attention",)


@needs_profiles
def test_mixed_steps_take_what_the_mix_was_measured_to_take() -> None:
    attention = profile().attention
    table = pd.read_csv(LLAMA / "tp1" / "attention.csv.gz")
    mixed = table[(table["prefill_chunk"] > 0) & (table["n_decode"] > 0)].sample(
        400, random_state=1
    )
    axes = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"]
    predicted = [
        attention.extend_ns([(c, p)], n, n * d, d) for c, p, n, d in mixed[axes].to_numpy()
    ]
    error = np.array(predicted) / (mixed["time_us"].to_numpy() * 1e3) - 1
    assert np.abs(error).mean() < 0.05


@needs_profiles
def test_uneven_kv_takes_longer_than_even_and_far_less_than_all_at_the_longest() -> None:
    latency = OperatorLatency(profile())
    even, uneven = np.full(32, 2000), np.array([33_000 - 31 * 1000] + [1000] * 31)
    uneven[0] = 64_000 - 31_000

    def ns(lens: np.ndarray) -> int:
        return latency.step_ns(StepShape((), 32, int(lens.sum()), 32, lambda: lens))

    assert ns(even) < ns(uneven) < 0.5 * ns(np.full(32, int(uneven.max())))


@needs_profiles
def test_steps_at_once_are_steps_one_by_one_with_uneven_kv() -> None:
    latency = OperatorLatency(profile())
    lens = np.arange(1, 61) * 37
    total = int(lens.sum()) + 60
    walked = LatencyModel.decode_steps_ns(latency, 60, total, 50, lambda: lens)
    assert latency.decode_steps_ns(60, total, 50, lambda: lens).tolist() == walked.tolist()


@needs_profiles
def test_a_split_model_needs_a_link() -> None:
    model = ModelShape.load("meta-llama/Llama-3.1-8B")
    with pytest.raises(ValueError, match="give link latency and bandwidth"):
        read_llmservingsim(LLAMA, model, Parallel(tp=2))
    link = Link(latency_ns=20_000, bytes_per_s=16e9)
    with pytest.raises(TableError, match="has no tp8; there are: tp1, tp2"):
        read_llmservingsim(LLAMA, model, Parallel(tp=8), link=link)


@needs_profiles
def test_a_profile_comes_back_as_it_was(tmp_path: Path) -> None:
    profile().save(tmp_path / "p.json")
    assert OperatorProfile.load(tmp_path / "p.json") == profile()


@needs_profiles
def test_which_gpu_was_measured_is_written_beside_it(tmp_path: Path) -> None:
    shutil.copytree(LLAMA, tmp_path / "moved")
    model = ModelShape.load("meta-llama/Llama-3.1-8B")
    assert read_llmservingsim(tmp_path / "moved", model).gpu == "RTXPRO6000"


def test_several_prompts_count_as_one_with_as_many_pairs() -> None:
    assert as_one([(512, 100)]) == (512, 100)
    for rows in ([(300, 0), (200, 1000)], [(256, 0)] * 8):
        chunk, cached = as_one(rows)
        pairs = sum(n * (n + 2 * c) / 2 for n, c in rows)
        assert chunk * (cached + chunk / 2) == pytest.approx(pairs)
        assert chunk <= sum(n for n, _ in rows)
