"""A long time of everything at once against the engine, and what is left of it afterwards.

    python -m benchmarks.soak [--minutes 10] [--model PATH] [--seed 0]

Clients send random requests, give some up, leave streams half read, and ask for what cannot be served;
the pool is so small that requests are retracted and prefixes evicted all the time. Each batching, serial
and overlapped, has its turn with an engine of its own. Whenever the engine rests, the scheduler's
invariants must hold and every slot be free or cached; after each turn no thread and no tensor may be left.
Memory is read at every rest: it must not grow with the requests served. Ends with 1 if anything of this
fails.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from benchmarks.gpu.tiny import tiny_model
from runtime import Engine, EngineError, InvalidRequestError, SamplingParams, load_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.scheduler import Scheduler
    from runtime import LoadedModel

CLIENTS = 3
ROUND_S = 5.0  # clients send for so long, then wait until all is answered: the engine rests
PATIENCE_S = 60.0  # a request that has not ended by then hangs
GROWTH_MIB = 24.0  # of a turn's memory from its first third to its last: more is a leak
FAMILIES: Final[dict[str, dict[str, Any]]] = {
    "prefill-first": {"chunked_prefill_size": 16},
    "mixed": {"batching": "mixed", "chunked_prefill_size": 16, "order": "lpm"},
    "decode-first": {
        "batching": "decode-first",
        "cache": "blocks",
        "chunked_prefill_size": None,
        "batching_options": {"max_num_batched_tokens": 16},
    },
}


@dataclass(slots=True)
class Turn:
    """What happened in one engine's time.

    Attributes:
        ends: how requests ended, and how many.
        rests: how often the engine rested.
        resident_mib: memory of the process at rest, in the order of time.
        problems: what should not have been.
    """

    ends: Counter[str] = field(default_factory=Counter)
    rests: int = 0
    resident_mib: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def at_rest(self, scheduler: Scheduler) -> None:
        """Called by the engine whenever nothing is left to do."""
        self.rests += 1
        try:
            scheduler.check_integrity()
        except AssertionError as error:
            self.problem(f"an invariant is broken: {error}")
        memory = scheduler.memory
        if memory.free + memory.evictable != memory.capacity:
            self.problem(
                f"{memory.free} slots free and {memory.evictable} cached of {memory.capacity}"
            )

    def problem(self, what: str) -> None:
        """Note what should not have been."""
        with self.lock:
            self.problems.append(what)

    def ended(self, how: str) -> None:
        """Count an end."""
        with self.lock:
            self.ends[how] += 1

    def growth_mib(self) -> float:
        """By how much the least memory at rest is more in the last third than in the first."""
        third = len(self.resident_mib) // 3
        if third == 0:
            return 0.0
        return min(self.resident_mib[-third:]) - min(self.resident_mib[:third])


def resident_mib() -> float:
    """Memory of this process, after a garbage collection."""
    gc.collect()
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def tensor_bytes() -> int:
    """Bytes of the tensors that Python can reach, storage shared by several counted once."""
    gc.collect()
    storages = {
        (s.data_ptr(), s.nbytes())
        for one in gc.get_objects()
        if issubclass(type(one), torch.Tensor)  # asking lazy modules for their class warns
        for s in (one.untyped_storage(),)
    }
    return sum(size for _, size in storages)


def a_prompt(rng: random.Random, vocab: int, capacity: int) -> list[int]:
    """Of any length, often with a common beginning; now and then none, too long, or a wrong id."""
    length = rng.choice([0, 1, 3, 10, 40, 40, 90, capacity + 40])
    top = vocab + 1 if rng.random() < 0.02 else vocab
    common = [7] * rng.choice([0, 8, 24])
    return (common + [rng.randrange(top) for _ in range(length)])[: max(length, 0)]


def some_params(rng: random.Random) -> SamplingParams:
    """Of every kind."""
    return SamplingParams(
        max_new_tokens=rng.choice([0, 1, 5, 20, 60]),
        temperature=rng.choice([0.0, 1.0]),
        top_k=rng.choice([None, 5]),
        top_p=rng.choice([1.0, 0.8]),
        ignore_eos=rng.random() < 0.5,
        presence_penalty=rng.choice([0.0, 0.5]),
        logit_bias=rng.choice([{}, {5: 3.0}]),
        logprobs=rng.choice([None, None, 2]),
        seed=rng.choice([None, 1]),
    )


def client(engine: Engine, turn: Turn, rng: random.Random, until: float, capacity: int) -> None:
    """Send requests at random until a time, then wait for all that are left."""
    waiting: list[Any] = []
    while time.monotonic() < until:
        prompt, params = a_prompt(rng, engine.vocab_size, capacity), some_params(rng)
        try:
            if rng.random() < 0.1:
                _leave_stream(engine, prompt, params, rng.randrange(6))
                turn.ended("stream left")
                continue
            waiting.append(engine.submit(prompt, params))
        except InvalidRequestError:
            turn.ended("invalid")
            continue
        except EngineError as error:
            if engine.failed is not None:
                turn.problem(str(error))
                return
            turn.ended("refused")  # a stream says so by an error
            continue
        if rng.random() < 0.2:
            engine.abort(rng.choice(waiting).job.request.id)
        time.sleep(rng.random() * 0.02)
        if len(waiting) > 40:
            _finish(waiting, turn)
    _finish(waiting, turn)


def _leave_stream(engine: Engine, prompt: list[int], params: SamplingParams, after: int) -> None:
    stream = engine.stream(prompt, params)
    for i, _ in enumerate(stream):
        if i >= after:
            break
    stream.close()  # type: ignore[attr-defined]


def _finish(waiting: list[Any], turn: Turn) -> None:
    for answer in waiting:
        try:
            turn.ended(str(answer.result(PATIENCE_S).finish_reason))
        except TimeoutError:
            turn.problem(f"{answer.job.request.id} has not ended within {PATIENCE_S:.0f} s")
    waiting.clear()


def soak(loaded: LoadedModel, policy: dict[str, Any], seconds: float, seed: int) -> Turn:
    """Run one engine for a time."""
    turn, capacity = Turn(), 160
    with Engine(
        loaded=loaded,
        on_idle=turn.at_rest,
        policy={"page_size": 4, "max_running_requests": 8, **policy},
        kv={"capacity_tokens": capacity},
    ) as engine:
        sampler = engine.stack.forward.sampler
        empty = sampler.nbytes
        end = time.monotonic() + seconds
        numbers = iter(range(1_000_000))
        while time.monotonic() < end and not turn.problems:
            until = min(end, time.monotonic() + ROUND_S)
            threads = [
                threading.Thread(
                    target=client,
                    args=(engine, turn, random.Random(f"{seed} {next(numbers)}"), until, capacity),
                    daemon=True,
                )
                for _ in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            turn.resident_mib.append(resident_mib())
    if sampler.nbytes != empty:
        turn.problem(
            f"the sampler holds {sampler.nbytes - empty} bytes for requests that have left"
        )
    return turn


def turns() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every batching, overlapped and serial."""
    for (family, policy), overlap in product(FAMILIES.items(), ("overlapped", "serial")):
        yield f"{family}, {overlap}", {**policy, "overlap": overlap}


def run(loaded: LoadedModel, seconds: float, seed: int) -> bool:
    """Every turn once, `seconds` in all; prints a line for each. Whether nothing was wrong."""
    fine = True
    kinds = list(turns())
    print(f"{'':28} {'requests':>9} {'rests':>6} {'MiB':>7} {'growth':>7}   ends")
    for name, policy in kinds:
        threads, tensors = set(threading.enumerate()), tensor_bytes()
        turn = soak(loaded, policy, seconds / len(kinds), seed)
        left = [t.name for t in threading.enumerate() if t not in threads]
        if left:
            turn.problems.append(f"threads are left: {', '.join(left)}")
        if (kept := tensor_bytes() - tensors) > 0:
            turn.problems.append(f"tensors of {kept} bytes are left")
        if turn.growth_mib() > GROWTH_MIB:
            turn.problems.append(f"memory grew by {turn.growth_mib():.1f} MiB")
        if not turn.rests:
            turn.problems.append("the engine never rested")
        ends = ", ".join(f"{count} {how}" for how, count in sorted(turn.ends.items()))
        print(
            f"{name:28} {turn.ends.total():9,} {turn.rests:6,} {resident_mib():7.0f} "
            f"{turn.growth_mib():7.1f}   {ends}",
            flush=True,
        )
        for problem in turn.problems[:5]:
            print(f"    {problem}", flush=True)
        fine = fine and not turn.problems
    return fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--model", help="a GGUF file or a folder; else a tiny random one")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.model:
        loaded = load_model(given.model)
    else:
        with tempfile.TemporaryDirectory() as folder:
            loaded = tiny_model(Path(folder))
    fine = run(loaded, given.minutes * 60, given.seed)
    print("nothing is left behind" if fine else "something is wrong")
    sys.exit(not fine)


if __name__ == "__main__":
    main()
