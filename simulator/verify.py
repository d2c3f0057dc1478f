"""Take a run's decisions once more, from what it recorded, and see that they are the same.

The scheduler is given the inboxes and the step results of a recorded run, of either world, under the
same policy and with the same memory, and must plan every batch again, item by item. It then did not
depend on anything but what it was told: what was tried in one world is what runs in the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from policies.config import Config, ConfigError, PolicyConfig, make_config
from policies.scheduler import Scheduler
from simulator.decision_replay import DecisionReplay, Difference
from traces.records.decisions import read_asked, read_decisions
from traces.records.errors import RecordError
from traces.records.run import load_run

if TYPE_CHECKING:
    from traces.records.run import Run

RESOLVED = ("chunked_prefill_size", "max_running_requests", "batching_options")
"""Keys of a policy that a world puts numbers in for; its manifest says which."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it; shows itself as a line, or a few.

    Attributes:
        steps: batches that were planned as recorded, up to the difference if there is one.
        requests: that came in.
        difference: the first; None where there is none.
        note: why not all of the run was gone through; None where it was.
    """

    steps: int
    requests: int
    difference: Difference | None = None
    note: str | None = None

    @property
    def identical(self) -> bool:
        """Whether every decision was the same."""
        return self.difference is None

    def __str__(self) -> str:
        steps = f"{self.steps:,} step{'' if self.steps == 1 else 's'}"
        if self.difference is not None:
            return f"different after {steps}, in {self.difference}"
        requests = f"{self.requests:,} request{'' if self.requests == 1 else 's'}"
        more = "" if self.note is None else f" ({self.note})"
        return f"identical: {steps}, {requests}{more}"


def verify(run: Run | str | Path) -> Verdict:
    """Take a run's decisions once more.

    A run that was cut off is gone through as far as it was recorded. Policies of one's own must be
    registered, as they were for the run.

    Args:
        run: a run with `decisions` among its records, or its folder.

    Raises:
        RecordError: where the run has no decisions, or cannot be read.
        ConfigError: where its policy cannot be made here.
    """
    if isinstance(run, str | Path):
        run = load_run(run)
    if not run.has("decisions"):
        raise RecordError(
            f"run {run.name} has no decisions to take again: it was written with --records "
            f"{','.join(run.manifest['records'])}; record one with --records decisions"
        )
    capacity = run.manifest.get("kv_capacity_tokens")
    if not isinstance(capacity, int):
        raise RecordError(f"run {run.name}: its manifest has no kv_capacity_tokens")
    policy = policy_of(run)
    replay = DecisionReplay(
        lambda: Scheduler(policy, capacity),
        read_decisions(run),
        read_asked(run),
        complete=run.status == "complete",
    )
    difference = replay.run()
    if difference is None and not replay.requests:
        raise RecordError(
            f"run {run.name}: its decision log is empty: there is nothing to take again"
        )
    note = replay.note
    if note is None and run.status != "complete":
        note = f"as far as it was recorded: the run {_ended(run.status)}"
    return Verdict(replay.steps, replay.requests, difference, note)


def policy_of(run: Run) -> PolicyConfig:
    """The policy that a run was scheduled by, every `auto` a number.

    Raises:
        RecordError: where the manifest does not say.
        ConfigError: for a policy that is not known here.
    """
    try:
        policy, resolved = dict(run.manifest["config"]["policy"]), run.manifest["resolved"]
        policy |= {key: resolved[key] for key in RESOLVED}
        if policy["context_limit"] is None:
            policy["context_limit"] = resolved["context_limit"]
    except (KeyError, TypeError) as error:
        raise RecordError(
            f"run {run.name}: its manifest does not say what the policy was ({error} is missing)"
        ) from None
    try:
        return make_config(Config, {"policy": policy}).policy
    except ConfigError as error:
        raise ConfigError(f"run {run.name}: {error}") from None


def _ended(status: str) -> str:
    return {"running": "was killed, or goes on", "interrupted": "was interrupted"}.get(
        status, status
    )
