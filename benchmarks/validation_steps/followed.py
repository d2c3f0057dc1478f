"""The steps of a run whose KV is full, by following it with our own scheduler.

While its queue is never empty, which requests run in which step does not depend on how long steps take: the
budget, the blocks and the order of arrival decide. So a scheduler of the same rules makes the same steps,
preemptions included, whatever the latency model, and the run's first and last tokens say whether it did:
those of one step have one instant, those of a later step a later one. What steps took is then known between
any two such instants.

Two things that the rules do not decide are taken from the run. Before the queue fills, steps depend on
time: arrivals are as measured, and the first launch returns as late as it did there, where the second
request, which came during it, was scheduled right after. And a block that an answer completes may be found
by another prompt: see `as_continued`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.validation_steps.tables import Stretch
from policies.scheduler import Scheduler
from simulator.config import Plan
from simulator.host import HostModel
from simulator.latency.base import LatencyModel
from simulator.model import ReplayedModel
from simulator.recorder import Recorder
from simulator.simulation import as_config
from simulator.validation.budget import measured_arrivals
from simulator.validation.figures import figures
from simulator.validation.latency import latency_section
from simulator.validation.setup import setup_of
from simulator.world import World
from traces.load import OpenLoop
from traces.real_runs import read_real_run
from traces.real_runs.our_run import from_run
from traces.records.writer import RunWriter
from traces.tokens import ExplicitTokens, SyntheticTokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.validation_steps.kept import Kept
    from simulator.latency.base import StepShape
    from traces.real_runs import RealSeries
    from traces.records.run import Run
    from traces.workload import Workload

# tokens of one step are reported so soon after each other
SAME_S = 1e-3
# the state of so many steps before or after is what was seen in a second's sample
NEAR = 3
# samples are counted from so long before the first request was scheduled: there most agree
SAMPLED_S = 0.1
NOBODYS = 1 << 40


class LateHost(HostModel):
    """A host whose first launch returns so many nanoseconds later."""

    __slots__ = ("_late",)

    def __init__(self, host: HostModel, late_ns: int) -> None:
        super().__init__(host.options)
        self._late = late_ns

    def launch_ns(self) -> int:
        """See `HostModel.launch_ns`."""
        late, self._late = self._late, 0
        return super().launch_ns() + late


class Noting(LatencyModel):
    """A latency model that keeps the shapes it is asked for, in order."""

    def __init__(self, latency: LatencyModel) -> None:
        self.latency = latency
        self.shapes: list[StepShape] = []

    def step_ns(self, shape: StepShape) -> int:
        """See `LatencyModel.step_ns`."""
        lens = shape.decode_kv_lens().copy()
        kept = shape._replace(prefill=tuple(shape.prefill), decode_kv_lens=lambda: lens)
        self.shapes.append(kept)
        return self.latency.step_ns(shape)


class Followed(NamedTuple):
    """A simulated run and the shape of each of its steps, None for an empty one."""

    run: Run
    shapes: list[StepShape | None]


class Placed(NamedTuple):
    """A real run's instants over the steps of a simulated one.

    Attributes:
        instants: seconds of each step that made a first or last token, by its number, ascending.
        apart: steps whose tokens have more than one instant.
        early: steps with an instant no later than that of the step before among them.
    """

    instants: dict[int, float]
    apart: tuple[int, ...]
    early: tuple[int, ...]

    @property
    def first_wrong(self) -> int | None:
        """The first step that disagrees; None where none does."""
        return min((*self.apart, *self.early), default=None)


def as_continued(work: Workload) -> Workload:
    """The workload with answers as conversations went on.

    An engine samples tokens of its own, and this run kept none; the workload's are its source's, each
    answer tokenized by itself. Where a later prompt goes on from a whole earlier one, the first token
    sampled is taken to be what follows there, and the others to be in no prompt.
    """
    whole = {request.prompt.array().tobytes(): request.id for request in work}
    lengths = sorted({len(request.prompt) for request in work})
    follows: dict[str, int] = {}
    for request in work:
        prompt = request.prompt.array()
        for n in lengths:
            earlier = whole.get(prompt[:n].tobytes()) if n < len(prompt) else None
            if earlier is not None:
                follows.setdefault(earlier, int(prompt[n]))
    made = []
    for place, request in enumerate(work):
        if request.id in follows:
            answer = SyntheticTokens(NOBODYS + place, len(request.output)).array().copy()
            answer[0] = follows[request.id]
            made.append(replace(request, output=ExplicitTokens(answer)))
        else:
            made.append(request)
    return replace(work, requests=made)


def follow(workload: Workload, plan: Plan, late_ns: int = 0) -> Followed:
    """Simulate step by step, with so late a first launch."""
    noting = Noting(plan.latency)
    manifest = {"kv_capacity_tokens": plan.kv_capacity}
    with RunWriter(None, manifest, ("requests", "steps")) as writer:
        recorder = Recorder(writer)
        World(
            Scheduler(plan.policy, plan.kv_capacity),
            OpenLoop(workload),
            noting,
            LateHost(plan.host, late_ns),
            ReplayedModel(),
            recorder,
            leap=False,
        ).run()
        run = writer.close("complete", itl=recorder.itl_summary())
    rows = run.steps["prefill_requests"].to_numpy() + run.steps["decode_requests"].to_numpy()
    shapes = iter(noting.shapes)
    return Followed(run, [next(shapes) if held else None for held in rows.tolist()])


def placed(followed: Followed, real: Mapping[str, tuple[float, float]]) -> Placed:
    """Lay a real run's instants over simulated steps.

    Args:
        followed: the steps.
        real: seconds of each request's first and last token, by its id.
    """
    commits = followed.run.steps["commit_ns"].to_numpy()
    table = followed.run.requests
    found: dict[int, list[float]] = {}
    for which, column in enumerate(("first_token_ns", "finish_ns")):
        steps = np.searchsorted(commits, table[column].to_numpy(np.int64))
        for name, step in zip(table["id"], steps.tolist(), strict=True):
            found.setdefault(step, []).append(real[name][which])
    apart, early, before = [], [], float("-inf")
    for step in sorted(found):
        if max(found[step]) - min(found[step]) > SAME_S:
            apart.append(step)
        if min(found[step]) <= before:
            early.append(step)
        before = min(found[step])
    instants = {step: min(found[step]) for step in sorted(found)}
    return Placed(instants, tuple(apart), tuple(early))


def stretches(followed: Followed, where: Placed) -> list[Stretch]:
    """The steps between two instants each, up to the first that disagrees."""
    wrong = where.first_wrong
    known = [step for step in where.instants if wrong is None or step < wrong]
    found = []
    for before, last in pairwise(known):
        steps = [shape for shape in followed.shapes[before + 1 : last + 1] if shape is not None]
        found.append(Stretch(where.instants[last] - where.instants[before], steps))
    return found


def same_memory(followed: Followed, where: Placed, began: float, seen: RealSeries) -> list[bool]:
    """Of each sample of the KV in use, whether a step near it has as many tokens in use.

    Args:
        followed: the steps.
        where: the run's instants over them.
        began: seconds of the instant from which the samples are counted.
        seen: the samples.
    """
    assert seen.kv_share is not None
    steps = followed.run.steps
    commits = steps["commit_ns"].to_numpy(np.float64)
    known = list(where.instants)
    real = np.interp(commits, commits[known], list(where.instants.values())) - began
    left = (steps["free_tokens"] + steps["evictable_tokens"]).to_numpy()
    share = np.round(1 - left / followed.run.manifest["kv_capacity_tokens"], 4)
    places = np.searchsorted(real, seen.time_s)
    return [
        bool((np.abs(share[max(i - NEAR, 0) : i + NEAR + 1] - in_use) < 1e-9).any())
        for i, in_use in zip(places.tolist(), seen.kv_share.tolist(), strict=True)
    ]


class Following(NamedTuple):
    """A run followed under some assumption.

    Attributes:
        followed: the steps.
        where: the run's instants over them.
        memory: of each second, whether as much KV was in use.
        errors: of the mean TTFT, TPOT and E2E, as shares.
    """

    followed: Followed
    where: Placed
    memory: list[bool]
    errors: tuple[float, ...]


def following(
    folder: Path,
    profile: Path,
    rows: Sequence[Kept],
    late_s: float,
    settings: Sequence[str] = (),
    *,
    continued: bool = False,
) -> Following:
    """Follow a run.

    Args:
        folder: the run's.
        profile: of operators, LLMServingSim's folder.
        rows: what it kept of its requests.
        late_s: by how much its first launch was late.
        settings: over what its files say.
        continued: see `as_continued`.
    """
    real = read_real_run(folder)
    work = measured_arrivals(real)
    assert work is not None
    assert real.series is not None
    if continued:
        work = as_continued(work)
    setup = setup_of(real)
    with TemporaryDirectory() as keep:
        section = latency_section(profile, setup, real, Path(keep) / "profile.json")
        plan = Plan.of(as_config({**setup.config, "latency": section}, settings))
    found = follow(work, plan, round(late_s * 1e9))
    instants = {
        request.id: (row.first, row.last) for request, row in zip(real.requests, rows, strict=True)
    }
    where = placed(found, instants)
    memory = same_memory(found, where, rows[0].scheduled - SAMPLED_S, real.series)
    compared = figures(real, from_run(found.run, folder, work))
    errors = tuple(compared.of(metric).error for metric in ("ttft", "tpot", "e2e"))
    return Following(found, where, memory, errors)
