"""How fast the runtime generates on the CPU, beside transformers, and what sharing and overlap save.

    python -m benchmarks.runtime [--model FILE] [--dtype bf16|fp32] [--threads 2] [--only PART ...]

Parts: `generate` runs the same prompts through the engine and through transformers' `generate`, greedy
and to equal lengths, one after the other in every round; `prefixes` answers requests that share long
beginnings with the prefix cache on and off; `overlap` decodes with the host's work hidden and not. Each
figure is the median over rounds. On a shared machine tokens per CPU-second (of all threads) say more
than tokens per second, and ratios more than either.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runtime import Engine, LoadedModel, RequestOutput

    Prompts = Sequence[Sequence[int]]

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / ".weights" / "SmolLM2-135M-Instruct.Q4_1.gguf"
BATCHES: Final = (8, 32)
PROMPT, OUTPUT = 64, 64
PARTS = ("generate", "prefixes", "overlap")
CAPACITY = 32_768  # tokens of KV, more than any part here holds at once


@dataclass(frozen=True, slots=True)
class Taken:
    """What a round took: seconds by the wall, and seconds of processor time of all threads."""

    wall_s: float
    cpu_s: float


def taken(run: Callable[[], object]) -> Taken:
    """Run it once."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[Taken]]:
    """Each run once to warm up, then all of them one after the other, round after round.

    Every other round goes backwards, so that none always follows the same one.
    """
    for run in runs.values():
        run()
    found: dict[str, list[Taken]] = {name: [] for name in runs}
    for i in range(rounds):
        for name in list(runs)[:: -1 if i % 2 else 1]:
            found[name].append(taken(runs[name]))
    return found


def random_prompts(count: int, length: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Prompts of token ids, special tokens left out."""
    rng = random.Random(seed)
    return [[rng.randrange(64, vocab_size) for _ in range(length)] for _ in range(count)]


def make_engine(loaded: LoadedModel, **policy: Any) -> Engine:
    """An engine on the CPU with one batch's worth of rows."""
    from runtime import Engine

    return Engine(
        policy={"max_running_requests": 64, **policy},
        kv={"capacity_tokens": CAPACITY},
        loaded=loaded,
    )


def answer(engine: Engine, prompts: Prompts, output: int) -> list[RequestOutput]:
    """Greedy answers of `output` tokens each, through the engine."""
    from runtime import SamplingParams

    params = SamplingParams(max_new_tokens=output, temperature=0.0, ignore_eos=True)
    answers = engine.generate(prompts, params)
    for one in answers:
        if one.error is not None:
            sys.exit(f"a request failed: {one.error}")
    return answers


def transformers_model(loaded: LoadedModel) -> Any:
    """The same weights in transformers, by way of a folder that is gone afterwards."""
    from transformers import AutoModelForCausalLM

    from runtime.weights.export import export_folder

    with tempfile.TemporaryDirectory() as folder:
        export_folder(loaded, Path(folder) / "model")
        model: Any = AutoModelForCausalLM.from_pretrained(
            Path(folder) / "model", dtype=loaded.model.dtype
        )
    return model.eval()


def transformers_answer(model: Any, prompts: Prompts, output: int) -> list[list[int]]:
    """Greedy answers of `output` tokens each, by transformers' generate loop."""
    import torch

    ids = torch.tensor(prompts)
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=output,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    answers: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return answers


# -- the parts --------------------------------------------------------------------------------------


def compare_generate(loaded: LoadedModel, batches: Sequence[int], rounds: int) -> None:
    """Print the engine and transformers side by side."""
    print(f"\ngenerate: {PROMPT} prompt and {OUTPUT} output tokens each, {rounds} rounds in turn")
    print(f"{'batch':>6} {'':14} {'tokens/s':>10} {'tokens/CPU s':>13}")
    model, vocab = transformers_model(loaded), loaded.config.vocab_size
    seeds = count()  # other prompts in every run, so that no prefix is cached
    with make_engine(loaded) as engine:
        for batch in batches:

            def prompts(size: int = batch) -> Prompts:
                return random_prompts(size, PROMPT, vocab, next(seeds))

            def ours(fresh: Callable[[], Prompts] = prompts) -> object:
                return answer(engine, fresh(), OUTPUT)

            def theirs(fresh: Callable[[], Prompts] = prompts) -> object:
                return transformers_answer(model, fresh(), OUTPUT)

            same = prompts()
            one = [output.output_ids.tolist() for output in answer(engine, same, OUTPUT)]
            other = transformers_answer(model, same, OUTPUT)
            equal = sum(a == b for a, b in zip(one, other, strict=True))
            runs: dict[str, Callable[[], object]] = {"schedtwin": ours, "transformers": theirs}
            found = interleaved(runs, rounds)
            for name, times in found.items():
                wall, cpu = medians(times)
                tokens = batch * OUTPUT
                print(f"{batch:6} {name:14} {tokens / wall:10.0f} {tokens / cpu:13.0f}")
            wall, cpu = times_faster(found["schedtwin"], found["transformers"])
            print(
                f"{batch:6} {'times faster':14} {wall:10.2f} {cpu:13.2f}   "
                f"({equal} of {batch} outputs equal)",
                flush=True,
            )


def medians(times: Sequence[Taken]) -> tuple[float, float]:
    """Of the seconds by the wall, and of those of processor time."""
    return median(t.wall_s for t in times), median(t.cpu_s for t in times)


def times_faster(ours: Sequence[Taken], theirs: Sequence[Taken]) -> tuple[float, float]:
    """Median over rounds of their time by ours: by the wall, and in processor time."""
    pairs = list(zip(ours, theirs, strict=True))
    return (
        median(their.wall_s / our.wall_s for our, their in pairs),
        median(their.cpu_s / our.cpu_s for our, their in pairs),
    )


def compare_prefixes(loaded: LoadedModel, rounds: int) -> None:
    """Print what the prefix cache saves on requests with common beginnings."""
    requests, prefix, own, output = 32, 512, 32, 16
    # a step holds two prompts and every batch eight requests, as on a server that is loaded
    limits = {"chunked_prefill_size": 1024, "max_running_requests": 8}
    variants: dict[str, dict[str, Any]] = {
        "no cache": {"cache": "none"},
        "radix, fcfs": {"order": "fcfs"},
        "radix, lpm": {"order": "lpm"},
    }
    print(
        f"\nprefixes: {requests} requests, {own} tokens of their own after {prefix} shared, {output} "
        f"output tokens, at most 8 running, the cache empty at first, {rounds} rounds in turn"
    )
    print(f"{'prefixes':>9} {'':14} {'cached':>7} {'s':>7} {'CPU s':>7} {'times faster':>13}")
    vocab = loaded.config.vocab_size
    for groups in (1, 4):
        found: dict[str, list[Taken]] = {name: [] for name in variants}
        cached = dict.fromkeys(variants, 0.0)
        for i in range(rounds):
            starts = random_prompts(groups, prefix, vocab, 1000 * groups + i)
            ends = random_prompts(requests, own, vocab, 2000 * groups + i)
            prompts = [starts[j % groups] + end for j, end in enumerate(ends)]
            for name, policy in variants.items():
                with make_engine(loaded, **limits, **policy) as engine:
                    answers: list[RequestOutput] = []

                    def run(
                        prompts: Prompts = prompts,
                        engine: Engine = engine,
                        answers: list[RequestOutput] = answers,
                    ) -> None:
                        answers.extend(answer(engine, prompts, output))

                    found[name].append(taken(run))
                held = sum(one.cached_tokens for one in answers)
                cached[name] += held / (requests * (prefix + own) * rounds)
        for name, times in found.items():
            wall, cpu = medians(times)
            faster = times_faster(times, found["no cache"])[1]
            print(
                f"{groups:9} {name:14} {cached[name]:7.0%} {wall:7.2f} {cpu:7.2f} {faster:13.2f}",
                flush=True,
            )


def compare_overlap(loaded: LoadedModel, rounds: int) -> None:
    """Print decoding with the host's work after the device's, and beside it."""
    from benchmarks.gpu.load import burst
    from benchmarks.gpu.steps import decode_figures, run_steps

    print(f"\noverlap: {PROMPT} prompt and {OUTPUT} output tokens each, {rounds} rounds in turn")
    print(f"{'batch':>6} {'':14} {'step ms':>8} {'gap us':>8} {'gap':>7} {'tokens/s':>10}")
    for batch in BATCHES:
        found: dict[str, list[dict[str, float]]] = {"serial": [], "overlapped": []}
        for i in range(rounds):
            for name, figures in found.items():
                config = {
                    "policy": {"overlap": name, "max_running_requests": 64},
                    "kv": {"capacity_tokens": CAPACITY},
                }
                steps = run_steps(burst(batch, PROMPT, OUTPUT, seed=i), config, loaded)
                figures.append(decode_figures(steps, batch))
        for name, figures in found.items():
            step, gap, share = (
                median(f[key] for f in figures) for key in ("step_us", "gap_us", "gap_share")
            )
            rate = batch / step * 1e6
            print(
                f"{batch:6} {name:14} {step / 1e3:8.2f} {gap:8.0f} {share:7.2%} {rate:10.0f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="a GGUF file or a folder")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, metavar="PART")
    given = parser.parse_args()
    if not given.model.exists():
        sys.exit(f"{given.model} is not there; `make weights` fetches it, or give --model")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    from runtime import load_model

    torch.set_num_threads(given.threads)
    loaded = load_model(given.model, dtype=given.dtype)
    print(f"{given.model.name}, {given.dtype}, {given.threads} threads, torch {torch.__version__}")
    if "generate" in given.only:
        compare_generate(loaded, given.batches, given.rounds)
    if "prefixes" in given.only:
        compare_prefixes(loaded, given.rounds)
    if "overlap" in given.only:
        compare_overlap(loaded, given.rounds)


if __name__ == "__main__":
    main()
