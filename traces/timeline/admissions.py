"""A request's prefill chunks and retractions, from the decision log and the times of its steps.

The log says which batches held a request, and the step table when those ran. A request that is
prefilled from an earlier place than it had come to was retracted in between. Just when is not in
the log: at the latest when the next step that decodes was launched, because it was not in it.
Holds a few numbers for each chunk of the requests that were asked for, whatever the run's length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from traces.timeline.rows import batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from traces.records.run import Run


class Times(NamedTuple):
    """When a step was launched, ran on the device, and was committed, in nanoseconds."""

    launch: int
    start: int
    end: int
    commit: int


class Chunk(NamedTuple):
    """A part of a prompt that was computed in one step: where it begins, and its new tokens."""

    iteration: int
    start: int
    tokens: int


@dataclass(slots=True)
class Admission:
    """One stay in the running batch: the chunks of its prefill, then its decode steps.

    Attributes:
        sampled: whether its last chunk sampled a token, which ends the prefill.
        last_iteration: the last step that it was in.
        decodes: the decode steps that it was in.
    """

    chunks: list[Chunk] = field(default_factory=list)
    sampled: bool = False
    last_iteration: int = -1
    decodes: int = 0

    @property
    def reached(self) -> int:
        """The position that the prefill has come to."""
        return self.chunks[-1].start + self.chunks[-1].tokens

    def goes_on(self, start: int) -> bool:
        """Whether a chunk from `start` on belongs to this stay."""
        return not self.decodes and start >= self.reached


class AdmissionLog:
    """The admissions of some requests.

    Args:
        run: a run with decisions and steps.
        request_ids: whose; memory is for these alone.
    """

    def __init__(self, run: Run, request_ids: Sequence[str]) -> None:
        self._admissions: dict[str, list[Admission]] = {name: [] for name in request_ids}
        for row in _items(run, request_ids):
            self._add(*row)
        self._times = _times(run, self._iterations())
        lasts = [a.last_iteration for stays in self._admissions.values() for a in stays[:-1]]
        self._gone = _next_decode_launch(run, sorted(lasts))

    def of(self, request_id: str) -> list[Admission]:
        """A request's stays in the running batch, oldest first."""
        return self._admissions[request_id]

    def times(self, iteration: int) -> Times | None:
        """When that step was; None where it was never committed."""
        return self._times.get(iteration)

    def gone_by(self, admission: Admission) -> int | None:
        """When, at the latest, a stay that another one followed had ended; None if unknown."""
        return self._gone.get(admission.last_iteration)

    def _add(
        self, iteration: int, request_id: str, kind: str, start: int, length: int, sampled: bool
    ) -> None:
        stays = self._admissions[request_id]
        if kind == "prefill":
            if not stays or not stays[-1].goes_on(start):
                stays.append(Admission())
            stays[-1].chunks.append(Chunk(iteration, start, length))
            stays[-1].sampled = sampled
        elif stays:
            stays[-1].decodes += 1
        if stays:
            stays[-1].last_iteration = iteration

    def _iterations(self) -> list[int]:
        needed = {
            chunk.iteration
            for stays in self._admissions.values()
            for stay in stays
            for chunk in stay.chunks
        }
        return sorted(needed)


def _items(run: Run, request_ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Iteration, request, kind, start, length, and whether it sampled, of each of their items."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(request_ids, pa.string())
    columns = ("iteration", "request_id", "item_kind", "start", "length", "stop")
    for batch in batches(run, "decisions", ("kind", *columns)):
        text = batch.column("kind").cast(pa.string())
        theirs = pc.is_in(batch.column("request_id"), value_set=wanted)
        rows = batch.filter(pc.and_(pc.equal(text, "item"), theirs))
        for *row, stop in zip(*(rows.column(name).to_pylist() for name in columns), strict=True):
            yield (*row, stop is not None)


def _times(run: Run, iterations: Sequence[int]) -> dict[int, Times]:
    """The times of these steps; ascending iterations."""
    needed = np.asarray(iterations, np.int64)
    found: dict[int, Times] = {}
    for batch in batches(
        run, "steps", ("iteration", "launch_ns", "start_ns", "end_ns", "commit_ns")
    ):
        number = _numbers(batch, "iteration")
        rows = np.flatnonzero(np.isin(number, needed))
        columns = (_numbers(batch, f"{name}_ns")[rows].tolist() for name in Times._fields)
        found |= zip(number[rows].tolist(), map(Times, *columns), strict=True)
    return found


def _next_decode_launch(run: Run, iterations: Sequence[int]) -> dict[int, int]:
    """For each of these steps (ascending), when the next one that decodes was launched."""
    waiting = np.asarray(iterations, np.int64)
    found: dict[int, int] = {}
    if not len(waiting):
        return found
    for batch in batches(run, "steps", ("iteration", "launch_ns", "decode_requests")):
        decodes = _numbers(batch, "decode_requests") > 0
        number, launch = (
            _numbers(batch, "iteration")[decodes],
            _numbers(batch, "launch_ns")[decodes],
        )
        if not len(number):
            continue
        met = waiting[waiting < number[-1]]
        found |= zip(
            met.tolist(), launch[np.searchsorted(number, met, side="right")].tolist(), strict=True
        )
        waiting = waiting[len(met) :]
    return found


def _numbers(batch: pa.RecordBatch, column: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    values: np.ndarray[Any, np.dtype[np.int64]] = batch.column(column).to_numpy()
    return values
