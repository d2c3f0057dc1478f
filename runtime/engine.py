"""The engine: a model that answers requests, with the scheduler of `policies` in between.

A thread of its own drives the world; requests come in from any other thread and are answered there. A
request that cannot be served is an error of its own, and the others go on. Where the engine itself
cannot go on, all that wait are told why, and so is whoever asks next.
"""

from __future__ import annotations

from itertools import count
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

from policies.config import ConfigError
from policies.request import Request
from policies.tokens import TokenLog
from runtime.arrivals import LiveQueue
from runtime.clock import Clock
from runtime.config import as_config
from runtime.executor import make_executor
from runtime.jobs import Job
from runtime.recorder import Recorder
from runtime.requests import InvalidRequestError, check_params, prompt_ids, refused_output
from runtime.sampling.noise import default_seed
from runtime.sampling.params import SamplingParams
from runtime.sampling.stops import Stops
from runtime.stack import Stack
from runtime.stream import Answer
from runtime.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from policies.scheduler import Scheduler
    from runtime.config import RuntimeConfig
    from runtime.sampling.output import RequestOutput
    from runtime.stream import Delta
    from runtime.weights.load import LoadedModel
    from runtime.weights.tokenizer import Tokenizer
    from traces.records.run import Run
    from traces.records.writer import RunWriter

    Prompt = str | Sequence[int]


class EngineError(RuntimeError):
    """The engine stopped, and says why."""


class Engine:
    """See the module. A context manager that closes itself.

    Args:
        config: a config, a mapping of sections as in the YAML file, or the path of one.
        settings: `section.key=value` settings over the config.
        loaded: the model, if it is loaded already; else `model.path` is loaded.
        out: a folder to record the run in; None records nothing.
        records: what is recorded; see `traces.records`.
        overwrite: replace the run that `out` holds.
        on_idle: called with the scheduler each time nothing is left to do, in the engine's thread.
        **sections: sections of the config, instead of `config`: `Engine(model={"path": ...})`.

    Attributes:
        stack: the model and what stands around it.

    Raises:
        ConfigError: for a config that cannot be used, or a model that cannot be loaded or does not
            fit.
        RecordError: where the run cannot be written.
    """

    def __init__(
        self,
        config: RuntimeConfig | Mapping[str, Any] | str | Path | None = None,
        *,
        settings: Sequence[str] = (),
        loaded: LoadedModel | None = None,
        out: str | Path | None = None,
        records: Collection[str] = ("requests", "steps"),
        overwrite: bool = False,
        on_idle: Callable[[Scheduler], None] | None = None,
        **sections: Mapping[str, Any],
    ) -> None:
        if sections and config is not None:
            raise TypeError("give a config or sections of one, not both")
        asked = as_config(sections or config, settings)
        if asked.runtime.clock != "wall":
            raise ConfigError(
                f"runtime.clock: {asked.runtime.clock} is for replayed traces; clients live by the wall's"
            )
        self.stack = Stack.build(asked, loaded)
        self._clock = Clock()
        self._queue = LiveQueue(self._clock)
        self._writer = self._open_writer(out, records, overwrite=overwrite)
        self._recorder = Recorder(self._writer, self.stack.rows)
        self._executor = make_executor(self.stack.forward, self._clock)
        self._world = World(
            self.stack.planner(self._executor.buffer),
            self._executor,
            self._queue,
            self._recorder,
            self._clock,
            on_idle,
        )
        self._numbers = count()
        self._failure: BaseException | None = None
        self._run: Run | None = None
        self._thread = Thread(target=self._serve, name="runtime-engine", daemon=True)
        self._thread.start()

    # -- what it serves -----------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer; None where it came without."""
        return self.stack.loaded.tokenizer

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.stack.loaded.config.vocab_size

    @property
    def failed(self) -> BaseException | None:
        """Why the engine stopped by itself; None while it runs, and after `close`."""
        return self._failure

    # -- requests -----------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = False,
    ) -> list[RequestOutput]:
        """Answer prompts, all at once, and wait for the answers.

        A prompt that cannot be answered has its `error` in its output; the others are answered.

        Args:
            prompts: texts, or lists of token ids.
            params: how to sample, for all or for each; the defaults of `SamplingParams`.
            progress: show a progress bar.

        Returns:
            the answers, in the order of the prompts.

        Raises:
            ValueError: where there are not as many params as prompts.
            EngineError: where the engine stopped.
            KeyboardInterrupt: on Ctrl-C, after the requests were given up.
        """
        if isinstance(prompts, str):
            raise TypeError("prompts is a list of prompts; put a single one into a list")
        each = _for_each(params, len(prompts))
        answers: list[Answer | RequestOutput] = []
        for prompt, own in zip(prompts, each, strict=True):
            try:
                answers.append(self.submit(prompt, own))
            except InvalidRequestError as error:
                answers.append(refused_output(self._new_id(), str(error), self._clock.now()))
        waiting = [answer for answer in answers if isinstance(answer, Answer)]
        try:
            _wait_for(waiting, progress=progress)
        except KeyboardInterrupt:
            for answer in waiting:
                self.abort(answer.job.request.id)
            raise
        self._check()
        return [a.result() if isinstance(a, Answer) else a for a in answers]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Answer one prompt, token by token. Giving the iterator up gives the request up.

        Raises:
            InvalidRequestError: where it cannot be served.
            EngineError: where it failed, or the engine stopped.
        """
        answer = self.submit(prompt, params, every_token=True)
        try:
            yield from answer.deltas()
        finally:
            if not answer.done:
                self.abort(answer.job.request.id)
        if (error := answer.result().error) is not None:
            raise EngineError(error)

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the field's name for it
        every_token: bool = False,
        **fields: Any,
    ) -> Answer:
        """Hand a request in, from any thread; does not wait.

        Args:
            prompt: a text, or token ids.
            params: how to sample.
            id: its name, of no other request that has not ended; None for a new one.
            every_token: tell tokens as they come (`Answer.deltas`), not only the end.
            **fields: what else a `policies.Request` carries: priority, tenant, session, extra_key,
                routing_key, lora_id.

        Raises:
            InvalidRequestError: where it cannot be served: ids outside the vocabulary, a text or stop
                strings without a tokenizer, an id that is in use.
            EngineError: where the engine stopped.
        """
        self._check()
        params = params or SamplingParams()
        ids = prompt_ids(prompt, self.tokenizer, self.vocab_size)
        check_params(params, self.vocab_size)
        name = id or self._new_id()
        log = TokenLog(ids)
        request = Request(name, log, params.max_new_tokens, ignore_eos=params.ignore_eos, **fields)
        eos_ids = self.stack.loaded.config.eos_ids
        try:
            stops = Stops(params, eos_ids, self.tokenizer)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
        ends = params.stop or params.end_ids(eos_ids)
        seed = default_seed(self.stack.config.seed, name)
        job = Job(request, log, params, stops if ends else None, seed=seed)
        answer = Answer(job, self.tokenizer, eos_ids, every_token=every_token)
        try:
            self._queue.submit(job)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
        except RuntimeError as error:
            self._check()
            raise EngineError(str(error)) from None
        return answer

    def abort(self, request_id: str) -> bool:
        """Give a request up; returns whether there is such a request that has not ended."""
        return self._queue.abort(request_id)

    def _new_id(self) -> str:
        return f"request-{next(self._numbers)}"

    # -- the engine's thread ------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._world.run()
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            self._failure = error
        finally:
            why = "it was closed" if self._failure is None else _said(self._failure)
            self._queue.close(why)
            self._executor.close()
            now = self._clock.now()
            for job in self._queue.abandon():
                job.error = f"the engine stopped: {why}"
                if job.listener is not None:
                    job.listener.ended(job, now)

    def _check(self) -> None:
        if self._failure is not None:
            raise EngineError(f"the engine stopped: {_said(self._failure)}") from self._failure

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> Run | None:
        """Take no more requests, finish those that came in, and let go of threads and memory.

        Returns:
            the run that was recorded, if one was.

        Raises:
            EngineError: where the engine had stopped by itself.
        """
        self._queue.close("it was closed")
        self._thread.join()
        if self._writer is not None and self._run is None:
            status = "complete" if self._failure is None else f"failed: {_said(self._failure)}"
            self._run = self._close_writer(self._writer, status)
        self._check()
        return self._run

    def _open_writer(
        self, out: str | Path | None, records: Collection[str], *, overwrite: bool
    ) -> RunWriter | None:
        if out is None:
            return None
        from runtime.run import open_run

        return open_run(out, self.stack, records, overwrite=overwrite)

    def _close_writer(self, writer: RunWriter, status: str) -> Run:
        from runtime.run import close_run

        return close_run(writer, self._recorder, self._world, self._clock.now(), status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        self._queue.abort_all()
        try:
            self.close()
        except EngineError as second:
            if error is not None:
                error.add_note(str(second))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _for_each(
    params: SamplingParams | Sequence[SamplingParams] | None, prompts: int
) -> Sequence[SamplingParams | None]:
    if params is None or isinstance(params, SamplingParams):
        return [params] * prompts
    if len(params) != prompts:
        raise ValueError(
            f"{prompts} prompts with {len(params)} params; give one for all, or one each"
        )
    return params


def _wait_for(answers: Sequence[Answer], *, progress: bool) -> None:
    if not progress:
        for answer in answers:
            answer.wait()
        return
    from traces.progress import bar

    with bar("generating", len(answers)) as completed:
        left = list(answers)
        while left:
            left[0].wait(0.1)
            left = [answer for answer in left if not answer.done]
            completed(len(answers) - len(left))
