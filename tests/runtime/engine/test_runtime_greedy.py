"""Greedy answers equal transformers' generate, token for token, however they are scheduled."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from policies import ORDERS
from runtime import Engine, SamplingParams, load_model
from runtime.weights.export import export_folder
from tests.runtime.conftest import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from runtime import LoadedModel
    from tests.runtime.conftest import TinyModel

Real = tuple["LoadedModel", list[list[int]], list[tuple[list[int], list[float]]]]
NEAR_TIE = 1e-4  # a gap between the two most likely tokens within which rounding may choose
FAMILIES: dict[str, dict[str, Any]] = {
    "prefill-first": {"chunked_prefill_size": 16},
    "mixed": {"batching": "mixed", "chunked_prefill_size": 16},
    "decode-first": {
        "batching": "decode-first",
        "cache": "blocks",
        "chunked_prefill_size": None,
        "batching_options": {"max_num_batched_tokens": 16},
    },
}


class Truth:
    """What transformers' generate answers in fp32, with the gaps it chose by."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._known: dict[tuple[int, ...], tuple[list[int], list[float]]] = {}

    def __call__(self, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
        key = tuple(prompt)
        if key not in self._known or len(self._known[key][0]) < count:
            with torch.inference_mode():
                made = self._model.generate(
                    torch.tensor([prompt]),
                    attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                    max_new_tokens=count,
                    min_new_tokens=count,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                    return_dict_in_generate=True,
                    output_logits=True,
                )
            gaps = [
                float(-np.subtract(*logits[0].topk(2).values.tolist()[::-1]))
                for logits in made.logits
            ]
            self._known[key] = made.sequences[0, len(prompt) :].tolist(), gaps
        ids, gaps = self._known[key]
        return ids[:count], gaps[:count]


def cut(
    answer: tuple[list[int], list[float]], eos: Collection[int]
) -> tuple[list[int], list[float]]:
    """An answer up to its EOS."""
    ids, gaps = answer
    end = next((at + 1 for at, token in enumerate(ids) if token in eos), len(ids))
    return ids[:end], gaps[:end]


class Setup:
    """A model, and a workload with its answers."""

    def __init__(self, folder: Path, *, long: bool = False) -> None:
        self.loaded: LoadedModel = load_model(folder, dtype="float32")
        truth = Truth(folder)
        rng = np.random.default_rng(5)
        vocab = self.loaded.config.vocab_size
        shared = rng.integers(3, vocab, 36).tolist()
        if long:  # short prompts, long outputs
            self.prompts = [rng.integers(3, vocab, rng.integers(2, 9)).tolist() for _ in range(8)]
            self.counts = rng.integers(36, 48, 8).tolist()
        else:
            self.prompts = [
                shared[: rng.integers(0, 36)] + rng.integers(3, vocab, rng.integers(1, 14)).tolist()
                for _ in range(12)
            ]
            self.counts = rng.integers(1, 24, 12).tolist()
        self.ends = rng.random(len(self.prompts)) < 0.5  # whether EOS ends it
        eos = self.loaded.config.eos_ids
        answers = [truth(p, c) for p, c in zip(self.prompts, self.counts, strict=True)]
        self.answers = [cut(a, eos if e else ()) for a, e in zip(answers, self.ends, strict=True)]


@pytest.fixture(scope="module")
def setup_of(tiny_model: TinyModel) -> Callable[[str], Setup]:
    return functools.cache(lambda architecture: Setup(tiny_model(architecture)))


def agree(got: list[int], truth: tuple[list[int], list[float]]) -> int:
    """Near-ties at which the answers part; raises where they part for no such reason."""
    ids, gaps = truth
    for at, (mine, theirs) in enumerate(zip(got, ids, strict=False)):
        if mine != theirs:
            assert gaps[at] < NEAR_TIE, (
                f"token {at} is {mine}, not {theirs}; the gap was {gaps[at]}"
            )
            return 1
    return 0


def run(setup: Setup, *, aborted: bool = False, capacity: int = 176, **policy: Any) -> Engine:
    params = [
        SamplingParams(max_new_tokens=count, temperature=0.0, ignore_eos=not ends)
        for count, ends in zip(setup.counts, setup.ends.tolist(), strict=True)
    ]

    def at_rest(scheduler: Any) -> None:
        scheduler.check_integrity()
        memory = scheduler.memory
        assert memory.free + memory.evictable == memory.capacity

    policy = {"max_running_requests": 8, **policy}
    if policy.get("batching") != "decode-first":
        policy["new_token_ratio"] = {"init": 0.01, "min_factor": 0.01}
    with Engine(
        loaded=setup.loaded,
        on_idle=at_rest,
        policy=policy,
        kv={"capacity_tokens": capacity},
        model={"kv_dtype": "fp32"},
    ) as engine:
        answers = [engine.submit(p, o) for p, o in zip(setup.prompts, params, strict=True)]
        if aborted:
            for answer in answers[::4]:
                engine.abort(answer.job.request.id)
        near_ties = 0
        for i, answer in enumerate(answers):
            output = answer.result(60)
            ids = output.output_ids.tolist()
            if output.finish_reason == "abort":
                assert aborted, output.error
                assert i % 4 == 0, output.error
            else:
                parted = agree(ids, setup.answers[i])
                assert parted or len(ids) == len(setup.answers[i][0]), output.error
            near_ties += agree(ids, setup.answers[i])
        if near_ties:
            print(f"{near_ties} near-ties")
    return engine


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture(
    setup_of: Callable[[str], Setup], architecture: str, family: str
) -> None:
    run(setup_of(architecture), **FAMILIES[family])


CONFIGS = [
    (family, overlap, page, cache)
    for family in FAMILIES
    for overlap in ("overlapped", "serial")
    for page in (1, 16)
    for cache in (True, False)
]


@pytest.mark.parametrize(("family", "overlap", "page", "cache"), CONFIGS)
def test_every_way_to_schedule(
    setup_of: Callable[[str], Setup], family: str, overlap: str, page: int, cache: bool
) -> None:
    """Orders take turns, so that every family meets every order; some requests are given up."""
    at = CONFIGS.index((family, overlap, page, cache))
    orders = [o for o in ORDERS.names() if usable(o, family, cache=cache)]
    for order in {orders[(2 * at) % len(orders)], orders[(2 * at + 1) % len(orders)]}:
        keys: dict[str, Any] = {**FAMILIES[family], "order": order, "overlap": overlap}
        if not cache:
            keys["cache"] = "none"
        run(setup_of("llama"), aborted=at % 2 == 0, page_size=page, **keys)


def usable(order: str, family: str, *, cache: bool) -> bool:
    """Whether an order goes with a cache: some need one, and one needs the radix tree."""
    if order == "shortest-prefill-first":
        return cache
    return not (order == "dfs-weight" and family == "decode-first")


@pytest.mark.weights
@pytest.mark.parametrize("family", ["prefill-first", "decode-first"])
def test_real_weights(real: Real, family: str) -> None:
    loaded, prompts, answers = real
    params = SamplingParams(max_new_tokens=16, temperature=0.0, ignore_eos=True)
    policy = {"page_size": 4, "max_running_requests": 4, **FAMILIES[family]}
    with Engine(loaded=loaded, policy=policy, kv={"capacity_tokens": 160}) as engine:
        outputs = engine.generate(prompts, params)
    near_ties = sum(
        agree(output.output_ids.tolist(), answer)
        for output, answer in zip(outputs, answers, strict=True)
    )
    print(f"{near_ties} near-ties")
    assert sum(output.cached_tokens for output in outputs) > 0, "prompts share a prefix"
    assert outputs[0].text is not None
    assert "Paris" in outputs[0].text


@pytest.fixture(scope="module")
def real(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Real:
    loaded = load_model(smollm2, dtype="float32")
    folder = tmp_path_factory.mktemp("smollm2") / "folder"
    export_folder(loaded, folder)
    truth = Truth(folder)
    begin = "A short quiz on geography. Question: what is the "
    ends = ["capital of France? Answer:", "longest river of Africa? Answer:", "highest mountain?"]
    assert loaded.tokenizer is not None
    prompts = [loaded.tokenizer.encode(begin + end) for end in ends]
    prompts.append(loaded.tokenizer.encode("Once upon a time"))
    return loaded, prompts, [truth(prompt, 16) for prompt in prompts]


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_short(tiny_model: TinyModel, family: str) -> None:
    """The pool of these tests is so small that requests are retracted and prefixes evicted."""
    setup = Setup(tiny_model("qwen3"), long=True)
    engine = run(setup, capacity=112, page_size=4, **FAMILIES[family])
    scheduler = engine._world.scheduler
    assert scheduler.memory.evicted_tokens > 0
    assert engine._recorder.retractions > 0
