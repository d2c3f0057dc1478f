"""Replayed: the durations that a run recorded, in its order.

For what only a run's own times can tell: whether decisions replay, and how much of an error is due to step
durations. Each step has to be the one that the run had there, by rows, tokens and KV. Where it is not, the
replay ends with an error, or another model answers and the step is counted in `flags`.

It is the one model that goes by order: it moves on with every step the world goes through, and one object
serves one simulation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.config import ConfigError
from simulator.calibration.steps import Steps
from simulator.latency.base import LatencyModel, StepShape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from traces.records.run import Run

COLUMNS = (
    "prefill_requests",
    "prefill_tokens",
    "cached_tokens",
    "decode_requests",
    "decode_kv_tokens",
)


class ReplayError(ConfigError):
    """The simulation asks for a step that the replayed run did not have there."""


class ReplayedLatency(LatencyModel):
    """Device time from a run's records.

    Args:
        run: whose durations to replay.
        otherwise: answers for steps that the run did not have; None makes each an error.

    Attributes:
        run: as given.

    Raises:
        RecordError: where the run has no step table, or that cannot be read.
        CalibrationError: where its times are impossible.
    """

    def __init__(self, run: Run, otherwise: LatencyModel | None = None) -> None:
        self.run = run
        steps = Steps.of(run)
        steps = steps[steps.mode >= 0]
        self._ns = steps.duration_ns
        self._durations: list[int] = steps.duration_ns.tolist()
        self._shapes = list(zip(*(getattr(steps, name).tolist() for name in COLUMNS), strict=True))
        self._rows = steps.decode_requests * (steps.prefill_requests == 0)
        self._kv = steps.decode_kv_tokens
        self._iterations = steps.iteration
        self._otherwise = otherwise
        self._next = 0
        self._differing = 0

    def step_ns(self, shape: StepShape) -> int:
        """See `LatencyModel.step_ns`; moves on by a step.

        Raises:
            ReplayError: where the run's next step was another, and nothing else answers.
        """
        prefill, requests, kv_tokens, _, _ = shape
        if not prefill and not requests:
            return 0
        new = cached = 0
        for row_new, row_cached in prefill:
            new += row_new
            cached += row_cached
        at = self._next
        self._next += 1
        asked = (len(prefill), new, cached, requests, kv_tokens)
        if at < len(self._shapes) and asked == self._shapes[at]:
            return self._durations[at]
        if self._otherwise is None:
            raise self._error(at, asked)
        self._differing += 1
        return self._otherwise.step_ns(shape)

    def decode_steps_ns(
        self, requests: int, kv_tokens: int, steps: int, kv_lens: Callable[[], NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """See `LatencyModel.decode_steps_ns`. Looks ahead to the first step that the run did not have.

        From there on other steps than these follow, and their times are not known yet: those of the
        model that answers otherwise stand there, or the last recorded one.
        """
        alike = self._alike(requests, kv_tokens, steps)
        found = self._ns[self._next : self._next + alike]
        if alike == steps:
            return found.copy()
        if self._otherwise is not None:
            rest = self._otherwise.decode_steps_ns(
                requests, kv_tokens + alike * requests, steps - alike, lambda: kv_lens() + alike
            )
        else:
            last = self._durations[min(self._next + alike, len(self._durations)) - 1]
            rest = np.full(steps - alike, last, dtype=np.int64)
        return np.concatenate([found, rest])

    def took(self, requests: int, kv_tokens: int, steps: int) -> None:
        """See `LatencyModel.took`; moves on.

        Raises:
            ReplayError: where the run had other steps, and nothing else answers.
        """
        alike = self._alike(requests, kv_tokens, steps)
        if alike < steps:
            if self._otherwise is None:
                asked = (0, 0, 0, requests, kv_tokens + alike * requests)
                raise self._error(self._next + alike, asked)
            self._differing += steps - alike
            self._otherwise.took(requests, kv_tokens + alike * requests, steps - alike)
        self._next += steps

    def flags(self) -> Mapping[str, int]:
        """See `LatencyModel.flags`."""
        found = {} if self._otherwise is None else dict(self._otherwise.flags())
        if self._differing:
            found["steps that the replayed run did not have there"] = self._differing
        return found

    @property
    def approximations(self) -> tuple[str, ...]:
        """See `LatencyModel.approximations`."""
        return () if self._otherwise is None else self._otherwise.approximations

    def _alike(self, requests: int, kv_tokens: int, steps: int) -> int:
        """How many of such decode steps the run has next."""
        rows = self._rows[self._next : self._next + steps]
        kv = self._kv[self._next : self._next + steps]
        wanted = kv_tokens + requests * np.arange(len(rows))
        other = (rows != requests) | (kv != wanted)
        return int(other.argmax()) if other.any() else len(rows)

    def _error(self, at: int, asked: tuple[int, ...]) -> ReplayError:
        def said(shape: tuple[int, ...]) -> str:
            return ", ".join(f"{n} {c}" for c, n in zip(COLUMNS, shape, strict=True))

        if at < len(self._shapes):
            had = f"iteration {self._iterations[at]} had {said(self._shapes[at])}"
        else:
            had = f"that run ended after {len(self._shapes)} steps"
        return ReplayError(
            f"latency.run {self.run.name}: step {at + 1} of the simulation has {said(asked)}, but {had}. "
            "Replay with the config and workload of that run, or name a profile in latency.otherwise "
            "that answers where the two differ"
        )
