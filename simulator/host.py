"""What the host's own work costs in each phase of the scheduler's loop, as a model.

An engine's CPU receives requests, schedules, builds the device's inputs, launches, fetches results
and commits them. Whether that hides behind the device is what overlap strategies are about, so the
simulator charges it, phase by phase, as a cost linear in what drives the phase. All coefficients
are whole nanoseconds, so costs are exact and add up in any order.

It knows no clock: the time this program takes never enters a simulation. Nor does it know the
device, or work other processes do beside the scheduler (tokenizing, detokenizing, HTTP).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

KEPT = 1 << 16
"""Decode rounds whose cost is remembered, at most."""


class HostOptions(BaseModel):
    """Coefficients of the host model, in nanoseconds.

    The `production` defaults are assumptions; `twin calibrate` fits coefficients to records. They lie
    in the range measured for Python engines: SGLang's scheduling step takes 34 to 157 us at the median
    with 64 to 256 running requests and milliseconds with thousands waiting; without overlap, 1 to 3 ms
    of a decode step are reported to be the host's. With 64 running requests these defaults come to
    1.5 ms, with 256 to 3.6 ms. Preset `zero` makes the host free, for theory and for asking what overlap
    could gain at most. A coefficient that is given stands, whatever the preset.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["production", "zero"] = "production"
    """What coefficients are that are not given: assumed for a Python engine, or nothing."""
    receive_fixed_ns: NonNegativeInt = Field(20_000, description="poll the queue")
    receive_per_arrival_ns: NonNegativeInt = Field(30_000, description="unpack and validate")
    schedule_fixed_ns: NonNegativeInt = Field(30_000, description="one pass over the policies")
    schedule_per_waiting_ns: NonNegativeInt = Field(500, description="order the queue")
    schedule_per_running_ns: NonNegativeInt = Field(300, description="budgets and memory checks")
    schedule_per_prefill_request_ns: NonNegativeInt = Field(15_000, description="match and admit")
    prepare_fixed_ns: NonNegativeInt = Field(300_000, description="input and attention metadata")
    prepare_per_prefill_request_ns: NonNegativeInt = Field(20_000, description="slots and indices")
    prepare_per_prefill_token_ns: NonNegativeInt = Field(10, description="token ids to the device")
    prepare_per_decode_request_ns: NonNegativeInt = Field(2_000, description="slots and sampling")
    prepare_with_prefill_ns: NonNegativeInt = Field(
        0, description="no graph to replay: kernels one by one"
    )
    launch_fixed_ns: NonNegativeInt = Field(250_000, description="start the forward pass")
    collect_fixed_ns: NonNegativeInt = Field(50_000, description="synchronise and copy")
    collect_per_row_ns: NonNegativeInt = Field(1_000, description="a sampled token to Python")
    commit_fixed_ns: NonNegativeInt = Field(100_000, description="walk the batch, send outputs")
    commit_per_row_ns: NonNegativeInt = Field(8_000, description="append, check stops, stream out")
    commit_per_finished_ns: NonNegativeInt = Field(
        60_000, description="free, insert into the cache"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        """Under `zero`, what is not given is nothing rather than the production default."""
        if isinstance(values, dict) and values.get("preset") == "zero":
            coefficients = (name for name in cls.model_fields if name.endswith("_ns"))
            return dict.fromkeys(coefficients, 0) | values
        return values


class HostRound(NamedTuple):
    """What the host spends on one round of the loop, by phase, in nanoseconds.

    Attributes:
        to_launch: on the phases from receiving to launching.
        to_commit: on those from a step's end to its commit.
    """

    receive: int
    schedule: int
    prepare: int
    launch: int
    collect: int
    commit: int
    to_launch: int
    to_commit: int


class HostModel:
    """Host nanoseconds of each phase of one round of the loop.

    Arguments are counts and are taken as they are (never negative); answers are whole nanoseconds.
    """

    __slots__ = (
        "_arrival",
        "_collect",
        "_collect_row",
        "_commit",
        "_commit_row",
        "_finished",
        "_launch",
        "_prepare",
        "_prepare_decode",
        "_prepare_prefill",
        "_prepare_token",
        "_prepare_with_prefill",
        "_receive",
        "_round",
        "_schedule",
        "_schedule_prefill",
        "_schedule_running",
        "_schedule_waiting",
        "options",
    )

    def __init__(self, options: HostOptions | None = None) -> None:
        o = options or HostOptions()
        self.options = o
        # Copied out of the pydantic model: every phase of every simulated step reads them.
        self._receive = o.receive_fixed_ns
        self._arrival = o.receive_per_arrival_ns
        self._schedule = o.schedule_fixed_ns
        self._schedule_waiting = o.schedule_per_waiting_ns
        self._schedule_running = o.schedule_per_running_ns
        self._schedule_prefill = o.schedule_per_prefill_request_ns
        self._prepare = o.prepare_fixed_ns
        self._prepare_prefill = o.prepare_per_prefill_request_ns
        self._prepare_token = o.prepare_per_prefill_token_ns
        self._prepare_decode = o.prepare_per_decode_request_ns
        self._prepare_with_prefill = o.prepare_with_prefill_ns
        self._launch = o.launch_fixed_ns
        self._collect = o.collect_fixed_ns
        self._collect_row = o.collect_per_row_ns
        self._commit = o.commit_fixed_ns
        self._commit_row = o.commit_per_row_ns
        self._finished = o.commit_per_finished_ns
        self._round = lru_cache(maxsize=KEPT)(self._decode_round)  # asked for again and again

    def receive_ns(self, arrivals: int) -> int:
        """Take in what arrived since last asked."""
        return self._receive + self._arrival * arrivals

    def schedule_ns(self, waiting: int, running: int, prefill_requests: int) -> int:
        """Choose the next batch, given the queue, the running batch and what was admitted."""
        return (
            self._schedule
            + self._schedule_waiting * waiting
            + self._schedule_running * running
            + self._schedule_prefill * prefill_requests
        )

    def prepare_ns(self, prefill_requests: int, prefill_tokens: int, decode_requests: int) -> int:
        """Build the device's inputs for a batch; `prefill_tokens` are the new ones."""
        return (
            self._prepare
            + self._prepare_prefill * prefill_requests
            + self._prepare_token * prefill_tokens
            + self._prepare_decode * decode_requests
            + (self._prepare_with_prefill if prefill_requests else 0)
        )

    def launch_ns(self) -> int:
        """Hand a prepared batch to the device."""
        return self._launch

    def collect_ns(self, rows: int) -> int:
        """Fetch the results of a finished batch, the wait for the device apart."""
        return self._collect + self._collect_row * rows

    def commit_ns(self, rows: int, finished: int) -> int:
        """Write sampled tokens back to their requests and release the finished ones."""
        return self._commit + self._commit_row * rows + self._finished * finished

    def decode_round(self, waiting: int, running: int, rows: int) -> HostRound:
        """A round of so many decode rows in which nothing comes in and nothing ends."""
        return self._round(waiting, running, rows)

    def _decode_round(self, waiting: int, running: int, rows: int) -> HostRound:
        before = (
            self.receive_ns(0),
            self.schedule_ns(waiting, running, 0),
            self.prepare_ns(0, 0, rows),
            self.launch_ns(),
        )
        after = self.collect_ns(rows), self.commit_ns(rows, 0)
        return HostRound(*before, *after, sum(before), sum(after))
