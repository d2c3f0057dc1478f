"""Captured decode steps give what eager ones give; on CUDA, and as far as it goes without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from runtime import Engine, SamplingParams, load_model
from runtime.attention.choose import AttentionChoiceError, choose
from runtime.graphs import DecodeGraphs, bucket_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime import LoadedModel
    from runtime.attention.base import AttentionBackend, Sequences
    from tests.runtime.conftest import TinyModel

GREEDY = SamplingParams(max_new_tokens=24, temperature=0.0, ignore_eos=True)


def prompts(count: int = 7) -> list[list[int]]:
    rng = np.random.default_rng(2)
    return [rng.integers(3, 320, rng.integers(1, 40)).tolist() for _ in range(count)]


class Uncaptured(DecodeGraphs):
    """The same, but that a replay runs the model again: what can be tried without CUDA."""

    def __init__(self, model: Any, attention: AttentionBackend, most: int, max_pages: int) -> None:
        self.sizes = bucket_sizes(most)
        self._max_pages = max_pages
        self._model = model
        self._backends = {size: attention.for_graph(size, max_pages) for size in self.sizes}
        self._captured: Any = self._backends
        self.replays = 0

    def replay(
        self, tokens: torch.Tensor, positions: torch.Tensor, seqs: Sequences
    ) -> torch.Tensor:
        self.replays += 1
        backend = self._backends[seqs.count]
        backend.plan(seqs)
        return self._model(tokens, positions, backend.attend)


def answers(engine: Engine, asked: Sequence[list[int]]) -> list[list[int]]:
    return [output.output_ids.tolist() for output in engine.generate(asked, GREEDY)]


@pytest.mark.parametrize("batching", ["prefill-first", "decode-first"])
def test_replays_answer_alike(tiny_model: TinyModel, batching: str) -> None:
    policy: dict[str, Any] = {"page_size": 4, "max_running_requests": 5}
    if batching == "decode-first":
        policy |= {"batching": batching, "cache": "blocks", "chunked_prefill_size": None}
    loaded = load_model(tiny_model("qwen3"), dtype="float32")
    given: dict[str, Any] = {"loaded": loaded, "policy": policy, "kv": {"capacity_tokens": 400}}
    with Engine(**given) as engine:
        eager = answers(engine, prompts())
    with Engine(**given) as engine:
        forward = engine.stack.forward
        graphs = Uncaptured(forward.model, forward.attention, 5, 101)
        forward.graphs = graphs
        planner = engine.stack.planner(engine._executor.buffer)
        engine._world._inputs._padded = planner._padded
        assert answers(engine, prompts()) == eager
        assert graphs.replays > 0


# -- on CUDA ------------------------------------------------------------------------------------


def gpu(test: Any) -> Any:
    """Marks a test that needs a GPU."""
    there = torch.cuda.is_available()
    return pytest.mark.gpu(pytest.mark.skipif(not there, reason="needs a CUDA GPU")(test))


def cuda_engine(loaded: LoadedModel, **sections: Any) -> Engine:
    policy = {"page_size": 16, "max_running_requests": 12, **sections.pop("policy", {})}
    kv = {"capacity_tokens": 2048}
    return Engine(loaded=loaded, policy=policy, kv=kv, **sections)


@pytest.fixture(scope="module")
def on_cuda(tiny_model: TinyModel) -> LoadedModel:
    folder = tiny_model("qwen3", hidden_size=256, head_dim=64)
    return load_model(folder, dtype="bfloat16", device="cuda")


@gpu
@pytest.mark.parametrize("attention", ["flashinfer", "triton", "torch"])
def test_graphs_answer_as_eager_steps_do(on_cuda: LoadedModel, attention: str) -> None:
    try:
        choose(attention, "cuda", 64, torch.bfloat16, 16)
    except AttentionChoiceError as error:
        pytest.skip(str(error))
    runtime = {"attention": attention}
    with cuda_engine(on_cuda, runtime={**runtime, "cuda_graphs": False}) as engine:
        assert engine.stack.forward.graphs is None
        eager = answers(engine, prompts(11))
    with cuda_engine(on_cuda, runtime=runtime) as engine:
        assert engine.stack.forward.graphs is not None
        assert engine.stack.forward.graphs.sizes == (1, 2, 4, 8, 12)
        graphed = answers(engine, prompts(11))
    same = [a == b for a, b in zip(eager, graphed, strict=True)]
    first = [a[0] == b[0] for a, b in zip(eager, graphed, strict=True)]
    assert all(first), "prefill is not captured"
    assert np.mean(same) > 0.7, "in bf16 another batch size may round a near-tie another way"


@gpu
def test_graphs_in_fp32_answer_exactly(tiny_model: TinyModel) -> None:
    loaded = load_model(tiny_model("qwen3", head_dim=64), dtype="float32", device="cuda")
    got = []
    for graphs in (False, True):
        with cuda_engine(loaded, runtime={"attention": "triton", "cuda_graphs": graphs}) as engine:
            got.append(answers(engine, prompts(11)))
    assert got[0] == got[1]
    reference = load_model(tiny_model("qwen3", head_dim=64), dtype="float32", device="cpu")
    with cuda_engine(reference) as engine:
        assert answers(engine, prompts(11)) == got[0]


@gpu
@pytest.mark.parametrize("overlap", ["overlapped", "serial"])
def test_device_times_follow_one_another(on_cuda: LoadedModel, overlap: str, tmp_path: Any) -> None:
    with cuda_engine(on_cuda, policy={"overlap": overlap}, out=tmp_path / "run") as engine:
        answers(engine, prompts(11))
        run = engine.close()
    assert run is not None
    steps = run.steps[run.steps["mode"] != "empty"]
    assert (steps.launch_ns <= steps.start_ns + 50_000).all()
    assert (steps.start_ns <= steps.end_ns).all()
    assert (steps.end_ns <= steps.commit_ns).all()
    assert (steps.start_ns.to_numpy()[1:] >= steps.end_ns.to_numpy()[:-1]).all()
    assert run.manifest["versions"]["cuda"]
    assert run.manifest["hardware"]["device"] == torch.cuda.get_device_name()


@gpu
def test_running_out_of_memory_in_a_step_fails_that_step_only(on_cuda: LoadedModel) -> None:
    with cuda_engine(on_cuda) as engine:
        model = engine.stack.forward.model

        class Greedy:
            def __call__(self, tokens: torch.Tensor, *given: Any) -> torch.Tensor:
                if tokens.shape[0] == 37:
                    torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
                return model(tokens, *given)

            def logits(self, hidden: torch.Tensor) -> torch.Tensor:
                return model.logits(hidden)

        engine.stack.forward.model = Greedy()
        bad = engine.generate([[5] * 37], GREEDY)[0]
        assert bad.error is not None
        assert "ran out of memory in a step" in bad.error
        assert engine.generate([[5] * 36], GREEDY)[0].error is None


@gpu
def test_the_pool_is_sized_by_what_is_free(tiny_model: TinyModel) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    free, _ = torch.cuda.mem_get_info()
    config = {
        "model": {"path": str(tiny_model("qwen3", head_dim=64)), "weight_dtype": "bf16"},
        "policy": {"page_size": 16, "max_running_requests": 64},
        "kv": {"mem_fraction": round(1 - free / total + 0.1, 3)},
    }
    with Engine(config) as engine:
        used = engine.stack.capacity * 2 * 2 * 2 * 64 * 2
        assert 0.03 * total < used < 0.1 * total
        assert len(engine.generate([[5] * 36], GREEDY)[0].output_ids) == 24
