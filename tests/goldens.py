"""Replay recordings of SGLang 0.5.23's or vLLM 0.32.0's scheduler: does ours decide the same?

    python tests/goldens.py DIR [NAME ...] [--leap]

DIR holds `*.jsonl.gz` recordings and, for scheduler traces, `workloads/*.json.gz`. Prints a line for
each recording: `identical`, or the first step and field that differ. Exits 1 if any does. With `--leap`
rounds in which nothing is decided are gone through at once, and how many these were is printed.
"""

from __future__ import annotations

import gzip
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import goldens_vllm
from goldens_world import ReplayWorld

from policies.accidents import Accidents
from policies.admission.token_budget import TokenBudget
from policies.batch import Inbox, Mode
from policies.cache.none import NoCache
from policies.cache.radix import RadixCache
from policies.config import PolicyConfig
from policies.kv.memory import KVMemory
from policies.kv.pool import CountingPool, IndexedPool
from policies.priority import Priorities
from policies.registry import EVICTIONS, ORDERS
from policies.request import FinishReason, Request
from policies.scheduler import Scheduler
from policies.tokens import TokenLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.batch import Batch, Events, Repetition

FINISH = {
    FinishReason.STOP: "FINISH_MATCHED_TOKEN",
    FinishReason.LENGTH: "FINISH_LENGTH",
    FinishReason.ABORT: "FINISH_ABORT",
}


class Difference(Exception):
    """Where a replay and its recording part."""


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """The first field that differs, in words."""
    for key, value in theirs.items():
        if ours.get(key) != value:
            return f"{key}: recorded {_short(value)}, ours {_short(ours.get(key))}"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:200] + " ..."


# -- scheduler traces ---------------------------------------------------------------------------


def policy_of(config: dict[str, Any]) -> PolicyConfig:
    """The policy that a recording's config names."""
    chunk = config["chunked_prefill_size"]
    return PolicyConfig(
        order=config["policy"],
        order_options={"seed": config.get("seed", 0)} if config["policy"] == "random" else {},
        priority={
            "enabled": config["enable_priority_scheduling"],
            "low_values_first": config["schedule_low_priority_values_first"],
            "preemption": not config["disable_priority_preemption"],
            "preemption_threshold": config["priority_scheduling_preemption_threshold"],
        },
        batching="mixed" if config["enable_mixed_chunk"] else "prefill-first",
        overlap="overlapped" if config["overlap"] else "serial",
        page_size=config["page_size"],
        cache="none" if config["disable_radix_cache"] else "radix",
        eviction=config["eviction"],
        retraction={"length": "fewest-outputs"}.get(
            config["retraction_policy"], config["retraction_policy"]
        ),
        chunked_prefill_size=chunk if chunk and chunk > 0 else None,
        max_prefill_tokens=config["max_prefill_tokens"],
        prefill_max_requests=config["prefill_max_requests"],
        prefill_decode_interval=config["prefill_decode_interval"],
        prefill_decode_interval_min_batch=config["prefill_decode_interval_min_bs"],
        max_running_requests=config["max_running_requests"],
        max_queued_requests=config["max_queued_requests"],
        context_limit=config["context_len"],
        new_token_ratio={"conservativeness": config["schedule_conservativeness"]},
    )


class GoldenWorld(ReplayWorld):
    """Makes the records of SGLang's recordings.

    Args:
        scheduler: a scheduler of the recording's policy.
        workload: the recording's workload.
        check: run `check_integrity` after every planning and every commit.
        leap: go through rounds in which nothing is decided at once.
    """

    def __init__(
        self, scheduler: Scheduler, workload: dict[str, Any], *, check: bool, leap: bool
    ) -> None:
        super().__init__(scheduler, check=check, leap=leap)
        for item in workload["requests"]:
            request = Request(
                item["rid"],
                TokenLog(item["prompt"]),
                item["max_new_tokens"],
                ignore_eos=item["ignore_eos"],
                priority=item.get("priority"),
                extra_key=item.get("extra_key"),
                routing_key=item.get("routing_key"),
                lora_id=item.get("lora_id"),
            )
            self.outputs[request.id] = item["output_ids"]
            self.arrivals[item["arrival_step"]].append(request)

    def _planned(self, plan: Any) -> Batch | None:
        batch = plan()
        self._snapshot(batch)
        return batch

    def _receive(self) -> Inbox:
        self.step += 1
        arrivals = self.arrivals.pop(self.step, [])
        self.evicted = self.s.memory.evicted_tokens
        self.record = {
            "step": self.step,
            "arrived": [r.id for r in arrivals],
            "finished": [],
        }
        return Inbox(self.step, arrivals)

    def _finished_record(self) -> Iterator[dict[str, Any]]:
        record, self.record = self.record, None
        if record is None or not (
            record["mode"] != "idle" or record["arrived"] or record["finished"]
        ):
            return
        evicted = self.s.memory.evicted_tokens
        record["evicted"], self.evicted = evicted - self.evicted, evicted
        yield record

    def _snapshot(self, batch: Batch | None) -> None:
        s = self.s
        assert self.record is not None
        decode = batch.decode if batch is not None else None
        memory = s.memory
        self.record |= {
            "mode": "idle" if batch is None else str(batch.mode),
            "prefill": [[i.request.id, i.start, i.length] for i in batch.prefill] if batch else [],
            "decode": []
            if decode is None
            else [[r.id, int(n)] for r, n in zip(decode.requests, decode.seq_lens(), strict=True)],
            "retracted": [r.id for r in s.retracted],
            "requeued": [r.id for r in s.preempted],
            "waiting": [r.id for r in s.waiting],
            "running": [] if batch and batch.mode is Mode.MIXED else [r.id for r in s.running],
            "chunked": s.chunked.id if s.chunked else None,
            "full": s.running.full,
            "ratio": round(s.ratio.value, 9),  # as recorded
            "free": memory.free,
            "evictable": memory.cache.evictable,
            "protected": memory.cache.protected,
        }

    def _repeated_records(self, done: Repetition) -> Iterator[dict[str, Any]]:
        s, rounds = self.s, done.rounds
        states = zip(
            *(np.broadcast_to(state, rounds).tolist() for state in done.states()), strict=True
        )
        before = self.evicted
        for i, (ratio, free, evictable, protected, evicted) in enumerate(states):
            rows = done.batch.later(i + 1 - rounds).decode
            assert rows is not None
            self.step += 1
            yield {
                "step": self.step,
                "arrived": [],
                "finished": [],
                "mode": "decode",
                "prefill": [],
                "decode": [
                    [r.id, int(n)] for r, n in zip(rows.requests, rows.seq_lens(), strict=True)
                ],
                "retracted": [],
                "requeued": [],
                "waiting": [r.id for r in s.waiting],
                "running": [r.id for r in rows.requests],
                "chunked": None,
                "full": s.running.full,
                "ratio": round(ratio, 9),
                "free": free,
                "evictable": evictable,
                "protected": protected,
                "evicted": evicted - before,
            }
            before = evicted

    def _note(self, events: Events) -> None:
        if self.record is None:
            return
        self.record["finished"] += [
            [r.id, r.output_len, FINISH[r.finish_reason], r.cached_tokens, r.retractions]
            for r in events.ended
            if r.finish_reason in FINISH
        ]


def replay_scheduler(
    header: dict[str, Any],
    lines: list[dict[str, Any]],
    folder: Path,
    *,
    check: bool = False,
    indexed: bool = False,
    leap: bool = False,
) -> tuple[int, int]:
    """Replay a scheduler trace; returns the number of steps compared, and of those leapt over."""
    config = header["config"]
    policy = policy_of(config)
    with gzip.open(folder / "workloads" / f"{header['workload']}.json.gz", "rt") as file:
        workload = json.load(file)
    capacity = config["kv_pool_tokens"]
    pool = IndexedPool(capacity, policy.page_size, policy.max_running_requests) if indexed else None
    world = GoldenWorld(Scheduler(policy, capacity, pool), workload, check=check, leap=leap)
    ours = world.run()
    steps = 0
    for theirs in lines:
        if theirs.get("summary"):
            break
        record = next(ours, None)
        if record is None:
            msg = f"step {theirs['step']}: the replay ended early"
            raise Difference(msg)
        difference = differing(record, theirs)
        if difference is not None:
            msg = f"step {theirs['step']}: {difference}"
            raise Difference(msg)
        steps += 1
    extra = next(ours, None)
    if extra is not None:
        msg = f"step {extra['step']}: the recording ends, the replay goes on ({extra['mode']})"
        raise Difference(msg)
    return steps, world.leapt


def replay_vllm(
    header: dict[str, Any],
    lines: list[dict[str, Any]],
    folder: Path,
    *,
    check: bool = False,
    leap: bool = False,
) -> tuple[int, int]:
    """Replay a trace of vLLM's scheduler; returns as `replay_scheduler`, of iterations."""
    with gzip.open(folder / "workloads" / f"{header['workload']}.json.gz", "rt") as file:
        workload = json.load(file)
    world = goldens_vllm.VLLMWorld(header, workload, check=check, leap=leap)
    ours = world.run()
    steps = 0
    for theirs in lines:
        if theirs.get("summary"):
            break
        record = next(ours, None)
        if record is None:
            msg = f"step {theirs['step']}: the replay ended early"
            raise Difference(msg)
        difference = differing(goldens_vllm.flat(record), goldens_vllm.flat(theirs))
        if difference is not None:
            msg = f"step {theirs['step']}: {difference}"
            raise Difference(msg)
        steps += 1
    return steps, world.leapt


# -- radix operations ---------------------------------------------------------------------------


def replay_radix(lines: list[dict[str, Any]]) -> int:
    """Replay one run of operations on the radix tree; returns how many."""
    header, *operations = lines
    page = header["page_size"]
    free = [0]

    def free_pages(count: int, pages: object) -> None:
        free[0] += count * page

    tree = RadixCache(page, EVICTIONS.create(header["eviction"]), free_pages)
    locks: dict[int, Any] = {}
    for i, operation in enumerate(operations):
        got: dict[str, Any] = {}
        match operation["op"]:
            case "match":
                key = np.array(operation["key"], dtype=np.int32)
                match = tree.match(key, operation["extra_key"])
                got["matched"] = match.length
                if "lock" in operation:
                    tree.lock(match.node)
                    locks[operation["lock"]] = match.node
            case "insert":
                key = np.array(operation["key"], dtype=np.int32)
                free[0] -= len(key) // page * page
                match = tree.insert(key, None, operation["extra_key"], operation["priority"])
                free[0] += match.length
                got["prefix_len"] = match.length
            case "unlock":
                tree.unlock(locks.pop(operation["lock"]))
            case "evict":
                got["evicted"] = tree.evict(operation["n"])
        got |= {"evictable": tree.evictable, "protected": tree.protected, "free": free[0]}
        difference = differing(got, operation["res"])
        if difference is not None:
            name = f"{header['eviction']} page {page} seed {header['seed']}"
            msg = f"{name}: operation {i} ({operation['op']}): {difference}"
            raise Difference(msg)
    return len(operations)


# -- queue orders -------------------------------------------------------------------------------


def _tree(page: int, sequences: list[list[int]], pool: CountingPool) -> RadixCache:
    """A radix cache with sequences entered in order, their pages taken from the pool."""
    cache = RadixCache(page, EVICTIONS.create("lru"), pool.free_pages)
    for i, sequence in enumerate(sequences):
        key = np.array(sequence, dtype=np.int32)[: len(sequence) // page * page]
        row = i + 1
        pool.extend(row, 0, len(key))
        pool.free_range(row, 0, cache.insert(key, None).length)
    return cache


class _View:
    """What a queue order sees in a recorded case."""

    now = 0

    def __init__(self, memory: KVMemory, running: list[Request], processed: int) -> None:
        self.running = running
        self.processed_tokens = processed
        self.match = memory.match_whole


def replay_order(case: dict[str, Any]) -> int:
    """Sort one recorded queue; returns its length."""
    pool = CountingPool(10**9, case["page_size"], 1)
    memory = KVMemory(pool, _tree(case["page_size"], case["tree_seqs"], pool))
    waiting = []
    for i, item in enumerate(case["requests"]):
        request = Request(
            item["rid"],
            TokenLog(item["prompt"]),
            item["max_new_tokens"],
            priority=item["priority"],
            routing_key=item["routing_key"],
        )
        request.arrival_processed_tokens = item["arrival_processed_tokens"]
        request._output_len = len(item.get("output_ids", ()))
        request.entry = i
        waiting.append(request)
    running = [
        Request(f"run{i}", TokenLog([1]), 1, routing_key=key)
        for i, key in enumerate(case["running_routing_keys"])
    ]
    view = _View(memory, running, case["processed_tokens"])
    order = ORDERS.create(case["policy"], {"seed": 12345} if case["policy"] == "random" else {})
    mode = case["priority_mode"]
    if mode is None:
        arranged = order.arrange(waiting, view)
    else:
        switch = PolicyConfig(priority={"enabled": True, "low_values_first": mode == "low"})
        arranged = Priorities(switch.priority).arrange(order, waiting, view)
    ours = [request.id for request in arranged]
    if ours != case["order"]:
        at = next(
            i for i, pair in enumerate(zip(ours, case["order"], strict=True)) if len({*pair}) > 1
        )
        msg = (
            f"{case['policy']} priority {mode} seed {case['seed']}: place {at}: "
            f"recorded {case['order'][at]}, ours {ours[at]}"
        )
        raise Difference(msg)
    return len(ours)


# -- admission ----------------------------------------------------------------------------------


def replay_adder(case: dict[str, Any]) -> int:
    """Offer one recorded list of candidates to a token budget; returns how many were offered."""
    page = case["page_size"]
    pool = CountingPool(case["kv_pool_tokens"], page, 1)
    if case["disable_radix_cache"]:
        memory = KVMemory(pool, NoCache())
    else:
        memory = KVMemory(pool, _tree(page, case["tree_seqs"], pool))
    pool.extend(1, 0, pool.free_tokens - case["start"]["free"])  # what the running requests hold
    running = []
    for item in case["running"]:
        request = Request(
            item["rid"],
            TokenLog(np.ones(item["prompt_len"], dtype=np.int32)),
            item["max_new_tokens"],
            ignore_eos=item["ignore_eos"],
        )
        request._output_len = item["out_len"]
        running.append(request)
    budget = TokenBudget(
        memory,
        running,
        case["new_token_ratio"],
        max_prefill_tokens=case["max_prefill_tokens"],
        chunk=case["chunked_prefill_size"],
        accidents=Accidents(),
        decode_tokens=case["mixed_decode_tokens"],
        max_requests=case["prefill_max_requests"],
    )

    def numbers() -> dict[str, Any]:
        return {
            "rem_total": budget.left_total,
            "cur_rem": budget.left_now,
            "rem_input": budget.left_input,
            "rem_chunk": budget.left_chunk,
            "evictable": memory.cache.evictable,
        }

    difference = differing({**numbers(), "free": memory.free}, case["start"])
    if difference is not None:
        msg = f"seed {case['seed']}: start: {difference}"
        raise Difference(msg)
    for item, theirs in zip(case["requests"], case["results"], strict=False):
        request = Request(
            item["rid"],
            TokenLog(item["prompt"]),
            item["max_new_tokens"],
            ignore_eos=item["ignore_eos"],
        )
        before = str(budget.verdict())
        match = memory.match(request)
        verdict = budget.add(request, match) if theirs["verdict"] is not None else None
        admitted = bool(budget.admitted) and budget.admitted[-1] is request
        ours = {
            "rid": request.id,
            "pre": before,
            "verdict": None if verdict is None else str(verdict),
            "admitted": admitted,
            "prefix_len": match.length,
            "extend_end": request.extend_end if admitted else theirs.get("extend_end"),
            "chunked": budget.chunked is request,
            **numbers(),
            "protected": memory.cache.protected,
        }
        difference = differing(ours, theirs)
        if difference is not None:
            msg = f"seed {case['seed']}: {request.id}: {difference}"
            raise Difference(msg)
    return len(case["results"])


# -- files --------------------------------------------------------------------------------------


def replay_file(path: Path, **options: bool) -> str:
    """Replay one recording; returns what was compared.

    Args:
        path: the recording.
        options: `check` runs the integrity check at every step of a scheduler trace, `indexed`
            gives the scheduler an allocator with real page numbers, `leap` goes through rounds in
            which nothing is decided at once.

    Raises:
        Difference: where the replay and the recording part.
    """
    with gzip.open(path, "rt") as file:
        lines = [json.loads(line) for line in file]
    match lines[0]["kind"]:
        case "sched":
            steps, leapt = replay_scheduler(lines[0], lines[1:], path.parent, **options)
            return f"{steps} steps" + _leapt(leapt, options)
        case "vllm-sched":
            options.pop("indexed", None)  # blocks are always numbered there
            steps, leapt = replay_vllm(lines[0], lines[1:], path.parent, **options)
            return f"{steps} iterations" + _leapt(leapt, options)
        case "radix":
            starts = [i for i, line in enumerate(lines) if "kind" in line] + [len(lines)]
            runs = [lines[a:b] for a, b in pairwise(starts)]
            return f"{sum(map(replay_radix, runs))} operations in {len(runs)} runs"
        case "policy":
            return f"{sum(map(replay_order, lines))} places in {len(lines)} queues"
        case "adder":
            return f"{sum(map(replay_adder, lines))} candidates in {len(lines)} rounds"
        case kind:
            msg = f"unknown kind of recording {kind!r}; known are sched, vllm-sched, radix, policy, adder"
            raise Difference(msg)


def _leapt(rounds: int, options: dict[str, bool]) -> str:
    return f", {rounds} of them leapt over" if options.get("leap") else ""


def main(arguments: list[str]) -> int:
    """Replay all recordings of a folder, or those named."""
    leap = "--leap" in arguments
    arguments = [argument for argument in arguments if argument != "--leap"]
    if not arguments:
        print(__doc__)
        return 2
    folder = Path(arguments[0])
    names = arguments[1:]
    paths = sorted(
        p for p in folder.glob("*.jsonl.gz") if not names or p.name.split(".jsonl")[0] in names
    )
    if not paths:
        print(f"{folder}: no recordings (*.jsonl.gz) here")
        return 1
    different = 0
    for path in paths:
        try:
            print(f"{path.name}: identical ({replay_file(path, leap=leap)})", flush=True)
        except Difference as difference:
            different += 1
            print(f"{path.name}: {difference}", flush=True)
    print(f"{len(paths) - different} of {len(paths)} identical")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
