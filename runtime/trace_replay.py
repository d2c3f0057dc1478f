"""Play a trace in real time: a workload and a config in, a run out, as a simulation's.

Requests are sent when the trace says, or in closed loop when those they wait for have ended. Their token
ids are the trace's, and so are their answers, whatever the model would say (`runtime.answers: sampled`
lets it, at the trace's lengths). The run stands beside a simulated one of the same workload.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from policies.config import ConfigError
from policies.request import Request
from policies.tokens import TokenLog
from runtime.answers import AnsweredLog, Answers
from runtime.arrivals import LoadArrivals
from runtime.clock import Clock, CpuClock
from runtime.config import as_config
from runtime.executor import make_executor
from runtime.jobs import Job
from runtime.recorder import Recorder
from runtime.requests import check_params
from runtime.run import close_run, open_run
from runtime.sampling.noise import default_seed
from runtime.sampling.params import SamplingParams
from runtime.stack import Stack
from runtime.world import World
from traces.load import ClosedLoop, OpenLoop
from traces.workloads import as_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from policies.config import WorkloadConfig
    from runtime.config import RuntimeConfig
    from runtime.weights.load import LoadedModel
    from traces.load import Arrival, Load
    from traces.records.run import Run
    from traces.workload import TraceRequest, Workload


def replay(
    workload: Workload | str | Path,
    config: RuntimeConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    settings: Sequence[str] = (),
    loaded: LoadedModel | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    records: Collection[str] = ("requests", "steps", "decisions"),
    limit: int | None = None,
    speedup: float = 1.0,
    progress: bool = False,
) -> Run:
    """Play a workload in real time.

    Ids beyond the model's vocabulary are folded into it; prefixes that were shared stay so.

    Args:
        workload: a workload, the path of a trace, or the name of a generator's preset.
        config: a config, a mapping of sections as in the YAML file, or the path of one.
        settings: `section.key=value` settings over the config.
        loaded: the model, if it is loaded already; else `model.path` is loaded.
        out: the run folder; None keeps the run in memory.
        overwrite: replace the run that `out` holds.
        records: of requests, steps, tokens, decisions.
        limit: only the first so many requests.
        speedup: arrivals come so many times faster.
        progress: show a progress bar.

    Raises:
        ConfigError: for a config that cannot be used, or a model that cannot be loaded.
        TraceError: for a trace that cannot be read.
        RecordError: where the run cannot be written.
        StepError: where the device failed for good.
        KeyboardInterrupt: on Ctrl-C, after what was recorded has been written.
    """
    config = as_config(config, settings)
    work = as_workload(workload, config.seed, limit=limit, speedup=speedup)
    load = _load(work, config.workload)
    stack = Stack.build(config, loaded)
    clock = _clock(config, stack)
    maker = _JobMaker(stack)
    writer = open_run(out, stack, records, overwrite=overwrite, workload=maker.describe(work))
    recorder = Recorder(writer, stack.rows)
    executor = make_executor(stack.forward, clock)
    try:
        with _progress(len(work), show=progress) as on_end:
            arrivals = _Counted(load, clock, maker, on_end)
            clock.restart()
            executor.calibrate()
            planner = stack.planner(executor.buffer, maker.answers)
            world = World(planner, executor, arrivals, recorder, clock)
            try:
                world.run()
            except BaseException as error:
                close_run(writer, recorder, world, clock.now(), _status(error))
                raise
    finally:
        executor.close()
    return close_run(writer, recorder, world, clock.now(), "complete")


class EndsAfter:
    """A stop rule: an output ends with its token number `count`, as it did in the trace."""

    def __init__(self, count: int) -> None:
        self._count = count

    def ends(self, output: npt.NDArray[np.int32]) -> bool:
        """See `StopRule`."""
        return len(output) >= self._count

    def restart(self) -> None:
        """See `StopRule`: there is nothing to forget."""


class _JobMaker:
    """Makes a job of what a load sends.

    Attributes:
        answers: where answers are told to the device; None where it is to sample its own.
    """

    def __init__(self, stack: Stack) -> None:
        self._vocab_size = stack.loaded.config.vocab_size
        self._asked = stack.config.workload
        self._seed = stack.config.seed
        told = stack.config.runtime.answers == "trace"
        self.answers = Answers(stack.rows, stack.context) if told else None

    def describe(self, work: Workload) -> dict[str, Any]:
        """The workload, for the manifest."""
        return {
            "name": work.name,
            "requests": len(work),
            **dict(work.meta),
            "vocab_size": self._vocab_size,
        }

    def __call__(self, arrival: Arrival) -> Job:
        r = arrival.request
        prompt = r.prompt.array() % self._vocab_size
        log = TokenLog(prompt)
        if self.answers is not None:
            log = AnsweredLog(prompt, r.output.array() % self._vocab_size)
        request = Request.asked_for(
            r,
            log,
            arrival.sent_ns,
            max_new_tokens=self._asked.max_new_tokens,
            ignore_eos=self._asked.ignore_eos,
        )
        params = self._params(r, request.max_new_tokens)
        stop = None if request.ignore_eos else EndsAfter(len(r.output))
        return Job(request, log, params, stop, seed=default_seed(self._seed, r.id))

    def _params(self, r: TraceRequest, count: int) -> SamplingParams:
        """Greedy, unless the trace says how to sample; when an output ends is the trace's to say."""
        given = {"temperature": 0.0, **(r.sampling or {})}
        for key in ("max_tokens", "max_completion_tokens", "min_tokens", "stop", "stop_token_ids"):
            given.pop(key, None)
        forced = {"max_new_tokens": count, "min_new_tokens": 0, "ignore_eos": True}
        params = SamplingParams.from_mapping({**given, **forced}, ignore_unknown=True)
        check_params(params, self._vocab_size)
        return params


class _Counted(LoadArrivals):
    """Tells of every end."""

    def __init__(
        self, load: Load, clock: Clock, make: _JobMaker, on_end: Callable[[], None]
    ) -> None:
        super().__init__(load, clock, make)
        self._on_end = on_end

    def ended(self, job: Job, now_ns: int) -> None:
        """See `Arrivals.ended`."""
        super().ended(job, now_ns)
        self._on_end()


def _load(work: Workload, config: WorkloadConfig) -> Load:
    """How a workload is sent: open or closed loop, as the config's section `workload` says."""
    closed, at_once = config.sending(closed=work.closed, concurrency=work.meta.get("concurrency"))
    return ClosedLoop(work, at_once) if closed else OpenLoop(work)


def _clock(config: RuntimeConfig, stack: Stack) -> Clock:
    if config.runtime.clock == "wall":
        return Clock()
    device = stack.forward.device
    if device.type != "cpu":
        raise ConfigError(
            f"runtime.clock: cpu counts the time of steps on the CPU, and the device is {device}; set wall"
        )
    return CpuClock()


def _status(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"failed: {type(error).__name__}: {error}"


@contextmanager
def _progress(total: int, *, show: bool) -> Iterator[Callable[[], None]]:
    if not show:
        yield lambda: None
        return
    from traces.progress import bar

    ended = count(1)
    with bar("replaying", total) as completed:
        yield lambda: completed(next(ended))
