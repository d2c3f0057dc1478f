"""Replay recordings of vLLM 0.32.0's V1 scheduler; `tests/goldens.py` calls it for such files."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from goldens_world import ReplayWorld

from policies.batch import Batch, Events, Inbox, Mode, StepResult
from policies.config import PolicyConfig
from policies.request import FinishReason, Request
from policies.scheduler import Scheduler
from policies.tokens import TokenLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policies.batching.decode_first import DecodeFirst
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


class VLLMWorld(ReplayWorld):
    """Makes the records of vLLM's recordings, one for each engine iteration."""

    def __init__(self, header: dict[str, Any], workload: dict[str, Any], *, check: bool) -> None:
        config = header["config"]
        policy = policy_of(config)
        capacity = (config["num_blocks"] - 1) * config["block_size"]
        super().__init__(Scheduler(policy, capacity), check=check)
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


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the fields of its parts beside its own, so that one can be named."""
    fields: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            fields |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            fields[key] = value
    return fields
