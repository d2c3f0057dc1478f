"""The rows of the steps that leaps go through, as they would have been written one by one.

A step's row is written as its result is committed: under `overlapped` one round after its launch, so a
leap begins with the row of the step that was in flight, and leaves its own last step in flight. Rows
are made when a table is flushed, those of all leaps since then at once.
"""

from __future__ import annotations

from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.batch import Mode
from policies.scheduler import Gauges

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from policies.batch import Repetition
    from simulator.leap import Leap
    from traces.records.blocks import Cells

    Int64Array = npt.NDArray[np.int64]

_ONE = (int, float)  # of a value that many rounds share

_written = attrgetter(
    "host", "begun", "device", "commit", "first", "last_ns", "requests", "kv_tokens"
)
"""What is written of a `Stretch`."""


class LeapRows:
    """The rows of the steps that a leap launches and commits: a `traces.records.blocks.Block`.

    Args:
        leap: the rounds' times.
        parts: the scheduler's account of them.
        evicted: tokens, up to the step before.

    Attributes:
        evicted_after: tokens, up to the last of these steps.
        gauges_after: the scheduler's state as the last launch left it.
    """

    # numbers alone: what is held until a table is flushed must not keep requests alive
    __slots__ = (
        "_aside",
        "_evicted",
        "_iteration",
        "_overlapped",
        "_rounds",
        "_states",
        "_stretches",
        "_waiting",
        "evicted_after",
        "gauges_after",
    )

    def __init__(self, leap: Leap, parts: Sequence[Repetition], evicted: int) -> None:
        overlapped = self._overlapped = leap.pending is not None
        self._rounds = len(leap)
        self._aside, self._waiting = leap.aside, leap.waiting
        self._stretches = leap.stretches
        self._iteration = parts[0].batch.iteration - parts[0].rounds + 1
        self._states = [(part.rounds, *part.states()) for part in parts]
        self._evicted = self.evicted_after = evicted
        rounds, *last = self._states[-1]
        ratio, free, evictable, protected, gone = [_at(state, -1) for state in last]
        running = leap.stretches[-1].requests + leap.aside
        self.gauges_after = Gauges(
            ratio, leap.waiting, running, int(free), int(evictable), int(protected), int(gone)
        )
        if not overlapped or rounds > 1:  # the last launch has a row elsewhere
            self.evicted_after = _at(last[-1], -1 - overlapped)
        elif len(parts) > 1:
            self.evicted_after = _at(self._states[-2][-1], -1)

    def __len__(self) -> int:
        return self._rounds - self._overlapped

    @staticmethod
    def columns(blocks: Sequence[LeapRows]) -> list[Cells]:
        """See `Block.columns`. All leaps are of one run."""
        stretches = [stretch for block in blocks for stretch in block._stretches]
        of_host, begun_at, on_device, commits, firsts, lasts, members_of, kv_of = zip(
            *map(_written, stretches), strict=True
        )
        rounds = _ints(list(map(len, commits)))
        last = np.cumsum(rounds) - 1
        first = last - rounds + 1
        hosts = _ints(list(chain.from_iterable(of_host))).reshape(len(stretches), -1)
        receive, schedule, prepare, launch, collect, commit, to_launch, _ = hosts.T
        # of each round
        device = np.concatenate(on_device)
        commit_at = np.concatenate(commits)
        begun = np.roll(commit_at, 1)
        begun[first] = _ints(begun_at)
        collect_host, commit_host = np.repeat(collect, rounds), np.repeat(commit, rounds)
        firsts_host = _ints(list(chain.from_iterable(firsts)))
        collect_host[first], commit_host[first] = firsts_host[::2], firsts_host[1::2]
        commit_host[last] += _ints(lasts)
        launch_at = begun + np.repeat(to_launch, rounds)
        start = commit_at - collect_host - commit_host
        # of each step that is committed
        lengths = _ints(list(map(len, blocks)))
        if not blocks[0]._overlapped:
            start -= device
            kept: Any = slice(None)
        else:  # a result is committed in the round after, that of a leap's last step after the leap
            ends = np.cumsum([len(block._stretches) for block in blocks]) - 1
            kept = np.ones(len(commit_at), dtype=bool)
            kept[last[ends]] = False
            commit_at, collect_host, commit_host = (
                np.roll(column, -1) for column in (commit_at, collect_host, commit_host)
            )
            rounds[ends] -= 1
        within = np.arange(rounds.sum()) - np.repeat(np.cumsum(rounds) - rounds, rounds)
        ordinal = np.arange(rounds.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        requests = np.repeat(_ints(members_of), rounds)
        kv_tokens = np.repeat(_ints(kv_of), rounds) + requests * within
        # as the scheduler says
        counts, *states = zip(*[part for block in blocks for part in block._states], strict=True)
        ratios, free, evictable, protected, evicted = (
            _of_rounds(values, counts, np.int64 if i else np.float64)
            for i, values in enumerate(states)
        )
        opens = np.cumsum(lengths + blocks[0]._overlapped) - lengths - blocks[0]._overlapped
        newly = np.diff(evicted, prepend=0)
        newly[opens] = evicted[opens] - _ints([block._evicted for block in blocks])
        return [
            np.repeat(_ints([block._iteration for block in blocks]), lengths) + ordinal,
            Mode.DECODE.value,
            launch_at[kept],
            start[kept],
            (start + device)[kept],
            commit_at[kept],
            *(np.repeat(phase, rounds) for phase in (receive, schedule, prepare, launch)),
            collect_host[kept],
            commit_host[kept],
            *(0, 0, 0, requests, kv_tokens, kv_tokens),
            ratios[kept],
            np.repeat(_ints([block._waiting for block in blocks]), lengths),
            requests + np.repeat(_ints([block._aside for block in blocks]), lengths),
            *(column[kept] for column in (free, evictable, protected, newly)),
        ]


def _ints(values: Sequence[int]) -> Int64Array:
    return np.fromiter(values, np.int64, len(values))


def _at(values: Any, index: int) -> Any:
    """What a field of `RoundStates` is in one round."""
    return values if isinstance(values, _ONE) else values[index]


def _of_rounds(
    values: Sequence[Any], rounds: Sequence[int], dtype: type[np.generic]
) -> npt.NDArray[Any]:
    """One field of `RoundStates`, of all rounds; each value is of so many of them."""
    if set(map(type, values)) <= set(_ONE):
        return np.repeat(np.fromiter(values, dtype, len(values)), rounds)
    spread = [
        [value] * count if isinstance(value, _ONE) else value
        for value, count in zip(values, rounds, strict=True)
    ]
    return np.fromiter(chain.from_iterable(spread), dtype, sum(rounds))
