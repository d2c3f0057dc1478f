"""Run a simulation: a workload and a config in, a run out."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from policies import config as shared
from policies.config import ConfigError
from policies.engines.base import departures
from policies.registry import StrategyError
from policies.scheduler import Scheduler
from policies.stuck import StuckError
from simulator.config import Plan, SimulatorConfig
from simulator.interrupts import interrupts_between_rounds
from simulator.model import ReplayedModel
from simulator.recorder import Recorder
from simulator.world import RefusedError, World
from traces.load import ClosedLoop, Load, OpenLoop
from traces.progress import bar
from traces.records.errors import RecordError
from traces.records.writer import RunWriter
from traces.workload import RequestStream, Workload
from traces.workloads import as_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from policies.config import WorkloadConfig
    from traces.records.run import Run


@contextmanager
def _collecting_little() -> Iterator[None]:
    """Spare the garbage collector from looking again and again through what is no garbage.

    What was there before is not looked at. Requests and steps are no cycles: they go as they are let
    go of, and are so many that the collector would be called often. A world is one, with all that its
    scheduler holds: it is collected when the simulation is over, before all else comes back.
    """
    frozen, thresholds = gc.get_freeze_count(), gc.get_threshold()
    gc.freeze()
    gc.set_threshold(max(thresholds[0], 200_000), *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()
        if not frozen:
            gc.unfreeze()


@_collecting_little()
def simulate(
    workload: Workload | RequestStream | str | Path = "mooncake-conversation",
    config: SimulatorConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    records: Collection[str] = ("requests", "steps"),
    limit: int | None = None,
    speedup: float = 1.0,
    strict: bool = False,
    leap: bool = True,
    progress: bool | Callable[[int, int | None], None] = False,
) -> Run:
    """Simulate a workload under a policy.

    Args:
        workload: a workload, the path of a trace, or the name of a generator's preset; or a stream,
            whose requests are made as they arrive and forgotten when they end.
        config: a config, a mapping of sections as in the YAML file, or the path of one; the
            defaults are Qwen3-8B on one H200 with SGLang's options.
        settings: `section.key=value` settings over the config.
        out: the run folder; None keeps the run in memory.
        overwrite: replace the run that `out` holds.
        records: of requests, steps, tokens, decisions; requests are always recorded.
        limit: only the first so many requests; a stream is made as long as it is wanted.
        speedup: arrivals come so many times faster; a stream is made at the rate that is wanted.
        strict: a refused request is an error.
        leap: go through decode steps in which nothing is decided at once. The run is the same to the
            byte without, and takes longer.
        progress: show a progress bar, or call this with the requests ended and their total (None where
            it is not known), each time some end.

    Returns:
        the run, which shows itself as a table.

    Raises:
        ConfigError: for a config that cannot be used.
        ValueError: for a stream that was sent before, or whose requests wait for each other.
        TraceError: for a trace that cannot be read.
        RecordError: where the run cannot be written.
        StuckError: where the scheduler has work but plans nothing: a policy's fault.
        StrategyError: where a policy loses a request, or makes one up.
        RefusedError: where a request was refused and `strict` is set.
        KeyboardInterrupt: on Ctrl-C, after what was recorded has been written.
    """
    config = as_config(config, settings)
    work: Workload | RequestStream
    if isinstance(workload, RequestStream):
        if limit is not None or speedup != 1.0:
            raise ValueError(
                "a stream takes no limit and no speedup: make it with another n or rate"
            )
        work = workload
    else:
        work = as_workload(workload, config.seed, limit=limit, speedup=speedup)
    plan = Plan.of(config)
    load = as_load(work, config.workload)
    gc.freeze()  # a workload is many objects
    with RunWriter(out, manifest(work, config, plan), records, overwrite=overwrite) as writer:
        recorder = Recorder(writer)
        world = World(
            Scheduler(plan.policy, plan.kv_capacity),
            load,
            plan.latency,
            plan.host,
            ReplayedModel(sample="decisions" in writer.records),
            recorder,
            max_new_tokens=config.workload.max_new_tokens,
            ignore_eos=config.workload.ignore_eos,
            strict=strict,
            leap=leap,
        )
        try:
            total = _requests(work)
            with (
                _progress(total, recorder, progress) as on_progress,
                interrupts_between_rounds() as on_round,
            ):
                world.run(on_progress, on_round)
        except BaseException as error:
            _close(writer, recorder, world, plan, _status(error, world))
            raise
        return _close(writer, recorder, world, plan, "complete")


def as_config(
    config: SimulatorConfig | Mapping[str, Any] | str | Path | None, settings: Sequence[str] = ()
) -> SimulatorConfig:
    """A config from whatever form it is given in, with settings over it."""
    return shared.as_config(SimulatorConfig, config, settings)


def as_load(work: Workload | RequestStream, config: WorkloadConfig) -> Load:
    """How a workload is sent: open or closed loop, as the config's section `workload` says.

    Raises:
        ConfigError: for a stream in closed loop.
    """
    if isinstance(work, RequestStream):
        if config.loop == "closed" or config.concurrency is not None:
            raise ConfigError(
                "a stream is sent in open loop; for workload.loop: closed or workload.concurrency, make "
                "a whole workload with generate()"
            )
        return OpenLoop(work.independent())
    closed, at_once = config.sending(closed=work.closed, concurrency=work.meta.get("concurrency"))
    return ClosedLoop(work, at_once) if closed else OpenLoop(work)


def _requests(work: Workload | RequestStream) -> int | None:
    """How many requests there are, where that is known."""
    if isinstance(work, RequestStream):
        n = work.meta.get("n")
        return n if isinstance(n, int) else None
    return len(work)


def manifest(work: Workload | RequestStream, config: SimulatorConfig, plan: Plan) -> dict[str, Any]:
    """What a run is, for its manifest."""
    return {
        "world": "simulator",
        "config": config.model_dump(mode="json"),
        "resolved": {
            "chunked_prefill_size": plan.policy.chunked_prefill_size,
            "max_running_requests": plan.policy.max_running_requests,
            "context_limit": min(plan.policy.context_limit or plan.kv_capacity, plan.kv_capacity),
            "batching_options": plan.policy.batching_options,
            "latency": plan.latency_source,
        },
        "approximations": list(plan.approximations),
        "departures": departures(config),
        "workload": {"name": work.name, "requests": _requests(work), **dict(work.meta)},
        "seed": config.seed,
        "hardware": {"device": plan.device.product, "model": plan.model.name},
        "kv_capacity_tokens": plan.kv_capacity,
        "versions": {"schedtwin": _version()},
    }


def _version() -> str:
    try:
        return version("schedtwin")
    except PackageNotFoundError:
        return "unknown"


def _status(error: BaseException, world: World) -> str:
    """How a run ended that was cut short; an error nobody foresaw is told where it came up."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    status = f"failed: {type(error).__name__}: {error}"
    if isinstance(error, StuckError | RefusedError | StrategyError | RecordError | ConfigError):
        return status
    when = f"in round {world.scheduler.iteration} of the scheduler, at {world.now} ns"
    error.add_note(when)
    frame = extract_tb(error.__traceback__)[-1]
    return f"{status} ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name}; {when})"


def _close(writer: RunWriter, recorder: Recorder, world: World, plan: Plan, status: str) -> Run:
    return writer.close(
        status,
        itl=recorder.itl_summary(),
        counts=recorder.counts(recorder.left_behind()),
        flags=dict(plan.latency.flags()),
        device_busy_ns=world.device.busy_ns,
        end_ns=world.now,
    )


@contextmanager
def _progress(
    total: int | None, recorder: Recorder, progress: bool | Callable[[int, int | None], None]
) -> Iterator[Callable[[], None] | None]:
    """What to call when requests have ended: it moves a progress bar, or tells the caller."""
    if not progress:
        yield None
        return

    def ended() -> int:
        return recorder.finished + recorder.aborted + recorder.refused

    if callable(progress):
        yield lambda: progress(ended(), total)
        return
    with bar("simulating", total) as completed:
        yield lambda: completed(ended())
