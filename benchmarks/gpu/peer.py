"""transformers' continuous batching and the engine on the same requests, greedy and to equal lengths.

Both have random weights of the same shape, so their tokens differ and their work does not. Each answers
every workload twice, with other prompts: the second time counts, when all is compiled and captured.
transformers goes first and lets go of its memory.
"""

from __future__ import annotations

import inspect
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.place import MODEL
from runtime import Engine, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.gpu.place import Place

WORKLOADS = {"equal": (64, 512, 128), "many": (256, 256, 64)}  # requests, prompt, output tokens
TINY = {"equal": (3, 12, 4)}


def run(place: Place) -> None:
    """See the module."""
    workloads = TINY if place.tiny else WORKLOADS
    try:
        place.note("transformers", _transformers(place, workloads))
    except Exception as error:  # noqa: BLE001 - the engine's part is measured all the same
        said = f"{type(error).__name__}: {str(error)[:300]}"
        place.note("transformers", {"cannot work here": said})
    place.forget_model()
    place.note("schedtwin", _engine(place, workloads))


def _timed(
    place: Place, answer: Callable[[list[list[int]]], int], workload: tuple[int, int, int]
) -> dict[str, float]:
    """Seconds and tokens a second of a workload, by what answers prompts with so many tokens."""
    requests, length, output = workload
    vocab = 300 if place.tiny else 100_000
    generator = torch.Generator().manual_seed(requests)
    taken = []
    for _ in range(2):
        prompts = torch.randint(10, vocab, (requests, length), generator=generator).tolist()
        began = time.perf_counter()
        tokens = answer(prompts)
        taken.append(time.perf_counter() - began)
        if tokens != requests * output:
            raise RuntimeError(f"{tokens} tokens came back, not {requests * output}")
    rate = requests * output / taken[1]
    return {"first_s": taken[0], "seconds": taken[1], "output_tokens_per_s": rate}


def _transformers(place: Place, workloads: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
    os.environ["HF_HUB_OFFLINE"] = "1"  # else it looks for attention kernels on the hub
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(_shape(place)), encoding="utf-8")
        config = AutoConfig.from_pretrained(folder)
    make: Any = AutoModelForCausalLM.from_config  # untyped
    dtype = torch.float32 if place.tiny else torch.bfloat16
    with torch.device(place.device):
        model = make(config, dtype=dtype, attn_implementation="sdpa").eval()
    figures: dict[str, Any] = {"version": transformers.__version__}
    options: dict[str, Any] = {"persistent_manager": True} if _can_persist(model) else {}
    if place.tiny:  # else it takes nearly all the memory there is
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        options["continuous_batching_config"] = ContinuousBatchingConfig(
            page_size=16, num_blocks=64, max_batch_tokens=64
        )
    for name, workload in workloads.items():
        make_generation: Any = GenerationConfig  # untyped
        generation = make_generation(
            max_new_tokens=workload[2],
            do_sample=False,
            eos_token_id=-1,  # no token: every answer has its full length
            pad_token_id=0,
        )

        def answer(prompts: list[list[int]], generation: Any = generation) -> int:
            answers = model.generate_batch(inputs=prompts, generation_config=generation, **options)
            return sum(len(one.generated_tokens) for one in answers.values())

        try:
            figures[name] = _timed(place, answer, workload)
        finally:
            if hasattr(model, "destroy_cached_continuous_batching_manager"):
                model.destroy_cached_continuous_batching_manager()
    figures["attention"] = model.config._attn_implementation
    return figures


def _can_persist(model: Any) -> bool:
    """Whether its engine can be kept between calls, so that the second does not start anew."""
    return "persistent_manager" in inspect.signature(model.generate_batch).parameters


def _shape(place: Place) -> dict[str, Any]:
    """The model's config.json."""
    if place.tiny:
        from benchmarks.gpu.tiny import CONFIG

        return CONFIG
    from policies.model_shape import BUNDLED_FOLDER

    text = (BUNDLED_FOLDER / (MODEL.replace("/", "--") + ".json")).read_text(encoding="utf-8")
    shape: dict[str, Any] = json.loads(text)
    return shape


def _engine(place: Place, workloads: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with Engine(place.config(kv=None), loaded=place.loaded) as engine:
        for name, workload in workloads.items():
            params = SamplingParams(max_new_tokens=workload[2], temperature=0.0, ignore_eos=True)

            def answer(prompts: list[list[int]], params: SamplingParams = params) -> int:
                return sum(len(one.output_ids) for one in engine.generate(prompts, params))

            figures[name] = _timed(place, answer, workload)
    return figures
