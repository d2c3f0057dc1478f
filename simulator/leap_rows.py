"""The rows of the steps that leaps go through, as they would have been written one by one.

A step's row is written as its result is committed: under `overlapped` one round after its launch, so a
leap begins with the row of the step that was in flight, and leaves its own last step in flight. Rows
are made when a table is flushed, those of all leaps since then at once.
"""

from __future__ import annotations

from itertools import chain, compress
from operator import attrgetter, not_
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from policies.batch import Mode
from policies.scheduler import Gauges
from traces.records.blocks import numbers

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
        "_lag",
        "_rounds",
        "_states",
        "_stretches",
        "_waiting",
        "evicted_after",
        "gauges_after",
    )

    def __init__(self, leap: Leap, parts: Sequence[Repetition], evicted: int) -> None:
        # rounds from a step's launch to the row of it
        lag = self._lag = 0 if leap.pending is None else 1
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
        if rounds > lag:  # under `overlapped` the last launch has a row elsewhere
            self.evicted_after = _at(last[-1], -1 - lag)
        elif len(parts) > 1:
            self.evicted_after = _at(self._states[-2][-1], -1)

    def __len__(self) -> int:
        return self._rounds - self._lag

    @staticmethod
    def columns(blocks: Sequence[LeapRows]) -> list[Cells]:
        """See `Block.columns`. All leaps are of one run."""
        stretches = [stretch for block in blocks for stretch in block._stretches]
        of_host, begun_at, on_device, commits, firsts, lasts, members_of, kv_of = zip(
            *map(_written, stretches), strict=True
        )
        rounds = numbers(list(map(len, commits))).copy()
        last = np.cumsum(rounds) - 1
        first = last - rounds + 1
        hosts = numbers(list(chain.from_iterable(of_host))).reshape(len(stretches), -1)
        receive, schedule, prepare, launch, collect, commit, to_launch, _ = hosts.T
        # of each round
        device = np.concatenate(on_device)
        commit_at = np.concatenate(commits)
        begun = np.roll(commit_at, 1)
        begun[first] = numbers(begun_at)
        collect_host, commit_host = np.repeat(collect, rounds), np.repeat(commit, rounds)
        firsts_host = numbers(list(chain.from_iterable(firsts)))
        collect_host[first], commit_host[first] = firsts_host[::2], firsts_host[1::2]
        commit_host[last] += numbers(lasts)
        launch_at = begun + np.repeat(to_launch, rounds)
        start = commit_at - collect_host - commit_host
        # of each step that is committed
        lengths = numbers(list(map(len, blocks)))
        lag = blocks[0]._lag
        if not lag:
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
        requests = np.repeat(numbers(members_of), rounds)
        kv_tokens = np.repeat(numbers(kv_of), rounds) + requests * within
        # as the scheduler says
        counts, *states = zip(*[part for block in blocks for part in block._states], strict=True)
        ratios, free, evictable, protected, evicted = (
            _of_rounds(values, counts, "int64" if i else "float64")
            for i, values in enumerate(states)
        )
        opens = np.cumsum(lengths + lag) - lengths - lag
        newly = np.diff(evicted, prepend=0)
        newly[opens] = evicted[opens] - numbers([block._evicted for block in blocks])
        return [
            np.repeat(numbers([block._iteration for block in blocks]), lengths) + ordinal,
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
            np.repeat(numbers([block._waiting for block in blocks]), lengths),
            requests + np.repeat(numbers([block._aside for block in blocks]), lengths),
            *(column[kept] for column in (free, evictable, protected, newly)),
        ]


def _at(values: Any, index: int) -> Any:
    """What a field of `RoundStates` is in one round."""
    return values if isinstance(values, _ONE) else values[index]


def _of_rounds(
    values: Sequence[Any], rounds: Sequence[int], kind: Literal["int64", "float64"]
) -> npt.NDArray[Any]:
    """One field of `RoundStates`, of all rounds; each value is of so many of them."""
    steady = [isinstance(value, _ONE) for value in values]
    starts = [value if one else 0 for value, one in zip(values, steady, strict=True)]
    column = np.repeat(numbers(starts, kind), rounds)
    if not all(steady):
        each = list(chain.from_iterable(compress(values, map(not_, steady))))
        column[np.repeat(np.logical_not(steady), rounds)] = numbers(each, kind)
    return column
