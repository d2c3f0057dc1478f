"""Replay recordings of vLLM 0.32.0's V1 scheduler; `tests/goldens.py` calls it for such files."""

from __future__ import annotations

import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from goldens_world import ReplayWorld

from policies.batch import Batch, Events, Inbox, Mode, StepResult
from policies.config import PolicyConfig
from policies.request import FinishReason, Request
from policies.scheduler import Scheduler
from policies.tokens import TokenLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.batch import Repetition
    from policies.batching.decode_first import DecodeFirst
    from policies.effects import Repeated
    from policies.kv.block_memory import BlockMemory


def policy_of(config: dict[str, Any]) -> PolicyConfig:
    """The policy that a recording's config names."""
    return PolicyConfig(
        batching="decode-first",
        batching_options={
            "max_num_batched_tokens": config["max_num_batched_tokens"],
            "max_num_active_seqs": config["max_num_active_seqs"],
            "long_prefill_token_threshold": config["long_prefill_token_threshold"],
            "long_prefill_token_threshold_adaptive": config[
                "long_prefill_token_threshold_adaptive"
            ],
            "enable_chunked_prefill": config["chunked_prefill"],
            "scheduler_reserve_full_isl": config["reserve_full_isl"],
            "watermark": config["watermark"],
        },
        priority={"enabled": config["policy"] == "priority", "low_values_first": True},
        overlap="overlapped" if config["async_scheduling"] else "serial",
        page_size=config["block_size"],
        cache="blocks" if config["prefix_caching"] else "none",
        chunked_prefill_size=None,
        max_running_requests=config["max_num_seqs"],
        context_limit=config["max_model_len"],
        accidents={
            "planned_blocks_are_hits": True,
            "context_beyond_pool": True,
            "abort_by_prefix": False,
        },
    )


class _Before:
    """The blocks as they stood before rounds that went by at once; then, round by round, as they were.

    Which blocks each member was given is read from what it holds afterwards.
    """

    def __init__(self, memory: BlockMemory, *, known_ahead: int) -> None:
        self._size = memory.page_size
        self._caching = memory.pool.caching
        self._known_ahead = known_ahead
        self._queue = memory.pool.queue()
        self._memory = memory
        self._contents = dict(
            enumerate(memory.pool.contents().tolist())
        )  # of each block, 0 for none
        self._found = Counter(value for value in self._contents.values() if value)
        self._registered: dict[Request, int] = {}

    def hold(self, request: Request) -> None:
        """Note how many blocks of a member can be found before the rounds."""
        self._registered[request] = request.registered

    def step(self, request: Request, place: int) -> list[int]:
        """A member writes the token at a place; returns the blocks it was given for it."""
        given = []
        if place % self._size == 0:
            block = request.blocks[place // self._size]
            if block != self._queue.pop(0)[0]:
                raise AssertionError(
                    f"{request} was given block {block}, not the first in the queue"
                )
            self._lose(self._contents[block])
            self._contents[block] = 0
            given.append(block)
        full = (place + self._known_ahead) // self._size
        for i in range(self._registered[request], full if self._caching else 0):
            value = int(self._memory.contents(request, i + 1)[i])
            self._contents[request.blocks[i]] = value
            self._found[value] += 1
        self._registered[request] = max(full, self._registered[request])
        return given

    def _lose(self, value: int) -> None:
        if value:
            self._found[value] -= 1
            if not self._found[value]:
                del self._found[value]

    @property
    def cached(self) -> int:
        """Different contents that can be found."""
        return len(self._found)

    @property
    def fq(self) -> int:
        """The free queue's checksum."""
        return _checksum(self._queue)


class VLLMWorld(ReplayWorld):
    """Makes the records of vLLM's recordings, one for each engine iteration."""

    def __init__(
        self, header: dict[str, Any], workload: dict[str, Any], *, check: bool, leap: bool
    ) -> None:
        config = header["config"]
        policy = policy_of(config)
        capacity = (config["num_blocks"] - 1) * config["block_size"]
        super().__init__(Scheduler(policy, capacity), check=check, leap=leap)
        self.batching: DecodeFirst = self.s.batching  # type: ignore[assignment]
        self.memory: BlockMemory = self.s.memory
        self.aborts: list[tuple[int, str]] = []
        for item in workload["requests"]:
            if item["rid"] in header["rejected"]:
                continue
            request = Request(
                item["rid"],
                TokenLog(item["prompt"]),
                item["max_new_tokens"],
                item["arrival_step"],
                ignore_eos=item["ignore_eos"],
                priority=item.get("priority") or 0,
            )
            self.outputs[request.id] = item["output_ids"]
            self.arrivals[item["arrival_step"]].append(request)
            if item.get("abort_step") is not None:
                self.aborts.append((item["abort_step"], item["rid"]))
        self.aborts.sort()

    def _planned(self, plan: Any) -> Batch | None:
        idle = self.s.is_idle()
        before = {r: len(r.blocks) for r in self.batching.active}
        batch = plan()
        if idle:
            self.record = None  # being asked while idle is no iteration
        else:
            self._snapshot(batch, before)
        return batch

    def _receive(self) -> Inbox:
        if self.s.is_idle() and self.step + 1 not in self.arrivals:
            return Inbox(self.step)  # nothing comes, and aborts wait for the next arrival
        self.step += 1
        arrivals = self.arrivals.pop(self.step, [])
        aborts = [rid for at, rid in self.aborts if at <= self.step]
        self.aborts = [(at, rid) for at, rid in self.aborts if at > self.step]
        self.record = {
            "step": self.step,
            "arrived": [r.id for r in arrivals],
            "aborted": aborts,
            "sched": None,
            "processed": False,
            "emitted": 0,
            "finished": [],
        }
        return Inbox(self.step, arrivals, aborts)

    def _snapshot(self, batch: Batch | None, before: dict[Request, int]) -> None:
        assert self.record is not None
        if batch is None:
            return
        places = {item.request: (item.start, item.length) for item in batch.prefill}
        if batch.decode is not None:
            lens = batch.decode.seq_lens().tolist()
            places |= {r: (n - 1, 1) for r, n in zip(batch.decode.requests, lens, strict=True)}
        running = [r for r in self.batching.active if r in places and r in before]
        admitted = [r for r in self.batching.active if r in places and r not in before]
        size = self.memory.page_size
        self.record["sched"] = {
            "running": [[r.id, *places[r]] for r in running],
            "admitted": [
                [r.id, "resumed" if r.retractions else "new", *places[r], places[r][0] // size]
                for r in admitted
            ],
            "preempted": [r.id for r in self.s.preempted],
            "blocks": [list(r.blocks[before[r] :]) for r in running]
            + [list(r.blocks) for r in admitted],
            "flush_finished": sorted(r.id for r in self.batching.announced),
            "cached": self.memory.pool.different,
            "waiting": [r.id for r in self.s.waiting],
            "run_after": [r.id for r in self.batching.active],
            **self._pool(),
        }

    def _pool(self) -> dict[str, int]:
        return {"free": self.memory.pool.free, "fq": _checksum(self.memory.pool.queue())}

    def _next_event(self) -> int | None:
        aborts = [at for at, _ in self.aborts]
        return min([*self.arrivals, *aborts], default=None)

    def _repeat(self, batch: Batch, at_most: int) -> Repeated:
        self.before = _Before(self.memory, known_ahead=0 if self.s.overlapped else 1)
        for request in self.s.running:
            self.before.hold(request)
        return super()._repeat(batch, at_most)

    def _repeated_records(self, done: Repetition) -> Iterator[dict[str, Any]]:
        before, rounds = self.before, done.rounds
        states = done.states()
        tokens = np.broadcast_to(np.add(states.free_tokens, states.evictable_tokens), rounds)
        for i, free in enumerate((tokens // self.memory.page_size).tolist()):
            rows = done.batch.later(i + 1 - rounds).decode
            assert rows is not None
            places = dict(zip(rows.requests, (rows.seq_lens() - 1).tolist(), strict=True))
            active = [r.id for r in self.batching.active]
            waiting = [r.id for r in self.s.waiting]
            self.step += 1
            running = [[r.id, places[r], 1] for r in self.batching.active]
            blocks = [before.step(r, places[r]) for r in rows.requests]
            pool = {"free": free, "fq": before.fq}
            yield {
                "step": self.step,
                "arrived": [],
                "aborted": [],
                "sched": {
                    "running": running,
                    "admitted": [],
                    "preempted": [],
                    "blocks": blocks,
                    "flush_finished": [],
                    "cached": before.cached,
                    "waiting": waiting,
                    "run_after": active,
                    **pool,
                },
                "processed": True,
                "emitted": len(rows),
                "finished": [],
                "end": {**pool, "waiting": waiting, "running": active},
            }

    def _emit(self, batch: Batch) -> StepResult:
        assert self.record is not None
        self.record["processed"] = True
        return super()._emit(batch)

    def _note(self, events: Events) -> None:
        if self.record is None:
            return
        if events.batch is not None and events.batch.mode is not Mode.EMPTY:
            sampling = sum(item.samples for item in events.batch.prefill)
            rows = sampling + events.batch.decode_requests
            self.record["emitted"] += rows - len(events.dropped)
        self.record["finished"] += [
            [
                r.id,
                str(r.finish_reason),
                r.output_len,
                r.cached_tokens,
                r.cache_creation_tokens,
                r.retractions,
            ]
            for r in events.ended
            if r.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        ]

    def _finished_record(self) -> Iterator[dict[str, Any]]:
        record, self.record = self.record, None
        if record is not None:
            record["end"] = {
                **self._pool(),
                "waiting": [r.id for r in self.s.waiting],
                "running": [r.id for r in self.batching.active],
            }
            yield record


def _checksum(queue: list[tuple[int, bool]]) -> int:
    """Of a free queue, as recorded."""
    text = ",".join(f"{block}c" if findable else str(block) for block, findable in queue)
    return zlib.crc32(text.encode())


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the fields of its parts beside its own, so that one can be named."""
    fields: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            fields |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            fields[key] = value
    return fields
