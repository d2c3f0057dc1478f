"""Replay recordings of vLLM 0.32.0's V1 scheduler; `tests/goldens.py` calls it for such files."""

from __future__ import annotations

import zlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.batch import Batch, Events, Inbox, Mode, StepResult
from policies.config import PolicyConfig
from policies.effects import NOT_REPEATED, Collect, Launch, Receive, Repeat, Report, Sleep
from policies.loops import LOOPS
from policies.request import FinishReason, Request
from policies.scheduler import Scheduler
from policies.tokens import TokenLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.batching.decode_first import DecodeFirst
    from policies.kv.block_memory import BlockMemory

EOS = 2
DUMMY = 7


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


class VLLMWorld:
    """A world whose clock counts engine iterations and whose model is the recording's fake one."""

    def __init__(self, header: dict[str, Any], workload: dict[str, Any], *, check: bool) -> None:
        config = header["config"]
        policy = policy_of(config)
        self.s = Scheduler(policy, (config["num_blocks"] - 1) * config["block_size"])
        self.batching: DecodeFirst = self.s.batching  # type: ignore[assignment]
        self.memory: BlockMemory = self.s.memory
        self.check = check
        self.step = -1
        self.record: dict[str, Any] | None = None
        self.outputs: dict[str, list[int]] = {}
        self.arrivals: dict[int, list[Request]] = defaultdict(list)
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

    def run(self) -> Iterator[dict[str, Any]]:
        """A record for each engine iteration."""
        plan = self.s.next_batch

        def next_batch() -> Batch | None:
            idle = self.s.is_idle()
            before = {r: len(r.blocks) for r in self.batching.active}
            batch = plan()
            if idle:
                self.record = None  # being asked while idle is no iteration
            else:
                self._snapshot(batch, before)
            return batch

        self.s.next_batch = next_batch  # type: ignore[method-assign]
        loop = LOOPS[self.s.config.overlap](self.s)
        answer: Any = None
        while True:
            effect = loop.send(answer)
            answer = None
            match effect:
                case Receive():
                    yield from self._finished_record()
                    answer = self._receive()
                case Launch(batch):
                    answer = batch
                case Collect(batch):
                    answer = self._emit(batch)
                case Report(events):
                    self._note(events)
                case Repeat():
                    answer = NOT_REPEATED
                case Sleep():
                    yield from self._finished_record()
                    if not self.arrivals:
                        return
                    self.step = min(self.arrivals) - 1
            if self.check:
                self.s.check_integrity()

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
            "blocks": [r.blocks[before[r] :] for r in running] + [list(r.blocks) for r in admitted],
            "flush_finished": sorted(r.id for r in self.batching.announced),
            "cached": self.memory.pool.hashes,
            "waiting": [r.id for r in self.s.waiting],
            "run_after": [r.id for r in self.batching.active],
            **self._pool(),
        }

    def _pool(self) -> dict[str, int]:
        queue = ",".join(
            f"{b}c" if findable else str(b) for b, findable in self.memory.pool.queue()
        )
        return {"free": self.memory.pool.free, "fq": zlib.crc32(queue.encode())}

    def _emit(self, batch: Batch) -> StepResult:
        assert self.record is not None
        self.record["processed"] = True
        rows = [(i.request, i.seq_len) for i in batch.prefill if i.samples]
        if batch.decode is not None:
            lens = batch.decode.seq_lens().tolist()
            rows += zip(batch.decode.requests, lens, strict=True)
        tokens, stops = [], []
        for i, (request, seq_len) in enumerate(rows):
            at = seq_len - request.prompt_len
            outputs = self.outputs[request.id]
            token = outputs[at] if 0 <= at < len(outputs) else DUMMY
            tokens.append(token)
            if request.state != "finished":
                request.tokens.write(at, token)  # type: ignore[attr-defined]
            if token == EOS and not request.ignore_eos:
                stops.append(i)
        return StepResult(stops, np.array(tokens, dtype=np.int32))

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


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the fields of its parts beside its own, so that one can be named."""
    fields: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            fields |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            fields[key] = value
    return fields
