"""The profiles that ship: whole, small, sourced, and of the size of a roofline's answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from policies.model_shape import ModelShape
from simulator.devices import Device
from simulator.latency import RooflineLatency, StepShape
from simulator.latency.operators import OperatorLatency
from simulator.operators import OperatorProfile

PROFILES = Path(__file__).resolve().parents[3] / "simulator" / "profiles"
GPUS = ("h200", "h100", "a100")
MODELS = ("llama-3.1-8b", "qwen3-8b", "qwen3-32b", "qwen3-30b-a3b")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("gpu", GPUS)
def test_a_profile_says_where_it_is_from_and_answers_like_the_gpu(gpu: str, model: str) -> None:
    path = PROFILES / f"{gpu}.{model}.json"
    assert path.stat().st_size < 12_000
    profile = OperatorProfile.load(path)
    assert "AIConfigurator" in profile.source
    assert profile.licence == "Apache-2.0"
    assert {"gemm", "prefill", "decode"} <= profile.errors.keys()
    assert all(0 < error < 0.12 for error in profile.errors.values())
    shape = ModelShape.load(model)
    assert (profile.model, profile.layers) == (shape.name, shape.layers)
    latency = OperatorLatency(profile)
    roofline = RooflineLatency(shape, Device.load(gpu))
    lens = np.full(64, 1000)
    for step in (
        StepShape((), 64, 64_000, 64, lambda: lens),
        StepShape([(4096, 0)], 0, 0, 1, lambda: lens),
    ):
        assert 0.5 < latency.step_ns(step) / roofline.step_ns(step) < 2
