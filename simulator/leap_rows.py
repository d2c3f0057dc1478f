"""The rows of the steps that a leap goes through, as they would have been written one by one.

A step's row is written as its result is committed: under `overlapped` one round after its launch, so a
leap begins with the row of the step that was in flight, and leaves its own last step in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from traces.records.blocks import Block, Linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from policies.batch import Repetition
    from policies.scheduler import Gauges
    from simulator.leap import Leap

    Int64Array = npt.NDArray[np.int64]


class _Times(NamedTuple):
    """Of each step that a leap launches, in nanoseconds: int64, shape (rounds,).

    The last three are of its commit; under `overlapped` they are one shorter.
    """

    launch: Int64Array
    start: Int64Array
    end: Int64Array
    collect_host: Int64Array
    commit_host: Int64Array
    commit: Int64Array


def _times(leap: Leap) -> _Times:
    stretches = leap.stretches
    launch = np.concatenate([stretch.launch() for stretch in stretches])
    device = np.concatenate([stretch.device for stretch in stretches])
    commit = leap.commit
    collect_host = np.concatenate([stretch.collect_host() for stretch in stretches])
    commit_host = np.concatenate([stretch.commit_host() for stretch in stretches])
    start = commit - collect_host - commit_host
    if leap.pending is None:
        return _Times(launch, start - device, start, collect_host, commit_host, commit)
    later = collect_host[1:], commit_host[1:], commit[1:]
    return _Times(launch, start, start + device, *later)


def step_blocks(
    leap: Leap, parts: Sequence[Repetition], gauges: Gauges, evicted: int
) -> tuple[list[Block], int]:
    """The rows of the steps that a leap launches and commits, in blocks, in order.

    Args:
        leap: the rounds' times.
        parts: the scheduler's account of them.
        gauges: its state as the leap began.
        evicted: tokens, up to the step before.

    Returns:
        the blocks, and the tokens evicted up to the last of their steps.
    """
    blocks = []
    times = _times(leap)
    at = 0
    hosts = [stretch.host for stretch in leap.stretches for _ in range(len(stretch.commit))]
    for part in parts:
        rounds = slice(at, min(at + part.rounds, len(times.commit)))
        count = rounds.stop - at
        if count > 0:
            batch, rows, earlier = part.batch, part.batch.decode, part.rounds - 1
            assert rows is not None
            requests = len(rows.requests)
            kv_tokens = Linear(rows.kv_tokens - requests * earlier, requests)
            ratio, free, evictable, protected, gone = part.states()
            new: Any = 0
            if isinstance(gone, np.ndarray):
                new = np.diff(gone[:count], prepend=evicted)
                evicted = int(gone[count - 1])
            columns = (
                Linear(batch.iteration - earlier, 1),
                batch.mode.value,
                times.launch[rounds],
                times.start[rounds],
                times.end[rounds],
                times.commit[rounds],
                *hosts[at][:4],
                times.collect_host[rounds],
                times.commit_host[rounds],
                *(0, 0, 0, requests, kv_tokens, kv_tokens),
                _first(ratio, count),
                gauges.waiting,
                requests + leap.aside,
                _first(free, count),
                _first(evictable, count),
                _first(protected, count),
                new,
            )
            blocks.append(Block(count, columns))
        at += part.rounds
    return blocks, evicted


def last_gauges(leap: Leap, part: Repetition, gauges: Gauges) -> Gauges:
    """The scheduler's state as a leap's last launch left it."""
    assert part.batch.decode is not None
    ratio, *tokens = (s[-1] if isinstance(s, np.ndarray) else s for s in part.states())
    running = len(part.batch.decode.requests) + leap.aside
    return type(gauges)(float(ratio), gauges.waiting, running, *map(int, tokens))


def _first(state: Any, count: int) -> Any:
    """A column for the first so many rounds of a part, where it is one for each round."""
    return state[:count] if isinstance(state, np.ndarray) else state
