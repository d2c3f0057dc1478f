"""The rows of the steps that leaps go through, as they would have been written one by one.

A step's row is written as its result is committed: under `overlapped` one round after its launch, so a
leap begins with the row of the step that was in flight, and leaves its own last step in flight. Rows
are made when a table is flushed, those of all leaps since then at once.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from policies.batch import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from policies.batch import Repetition, RoundStates
    from policies.scheduler import Gauges
    from simulator.host import HostRound
    from simulator.leap import Leap, Stretch

    Int64Array = npt.NDArray[np.int64]


class _Numbers(NamedTuple):
    """What is written of a `Stretch`; its attributes, and those of its rows."""

    host: HostRound
    begun: int
    device: Int64Array
    commit: Int64Array
    first: tuple[int, int]
    last_ns: int
    requests: int
    kv_tokens: int

    @classmethod
    def of(cls, stretch: Stretch) -> _Numbers:
        rows, times = stretch.rows, (stretch.device, stretch.commit)
        ends = stretch.first, stretch.last_ns
        return cls(stretch.host, stretch.begun, *times, *ends, len(rows.requests), rows.kv_tokens)


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
        "evicted_after",
        "gauges_after",
    )

    def __init__(self, leap: Leap, parts: Sequence[Repetition], evicted: int) -> None:
        assert leap.gauges is not None
        self._overlapped = leap.pending is not None
        self._rounds = len(leap)
        self._aside = leap.aside
        self._stretches = [_Numbers.of(stretch) for stretch in leap.stretches]
        self._iteration = parts[0].batch.iteration - parts[0].rounds + 1
        self._states = [(part.rounds, part.states()) for part in parts]
        self._evicted = evicted
        ratio, *tokens = _last(self._states[-1][1])
        running = len(leap.stretches[-1].rows.requests) + leap.aside
        waiting = leap.gauges.waiting
        self.gauges_after: Gauges = type(leap.gauges)(ratio, waiting, running, *map(int, tokens))
        self.evicted_after = evicted
        left = len(self)
        for rounds, states in self._states:
            gone, count = states.evicted_tokens, min(left, rounds)
            left -= count
            if count:
                self.evicted_after = int(gone[count - 1] if isinstance(gone, np.ndarray) else gone)

    def __len__(self) -> int:
        return self._rounds - self._overlapped

    @staticmethod
    def columns(blocks: Sequence[LeapRows]) -> list[npt.NDArray[Any] | str]:
        """See `Block.columns`. All leaps are of one run."""
        stretches = [stretch for block in blocks for stretch in block._stretches]
        of_host, begun_at, on_device, commits, firsts, lasts, members_of, kv_of = zip(
            *stretches, strict=True
        )
        rounds = np.array(list(map(len, commits)))
        last = np.cumsum(rounds) - 1
        first = last - rounds + 1
        hosts = np.fromiter(chain.from_iterable(of_host), np.int64).reshape(len(stretches), -1)
        receive, schedule, prepare, launch, collect, commit, to_launch, _ = hosts.T
        # of each round
        device = np.concatenate(on_device)
        commit_at = np.concatenate(commits)
        begun = np.roll(commit_at, 1)
        begun[first] = begun_at
        collect_host, commit_host = np.repeat(collect, rounds), np.repeat(commit, rounds)
        collect_host[first], commit_host[first] = zip(*firsts, strict=True)
        commit_host[last] += lasts
        launch_at = begun + np.repeat(to_launch, rounds)
        start = commit_at - collect_host - commit_host
        # of each step that is committed
        lengths = np.array([len(block) for block in blocks])
        if not blocks[0]._overlapped:
            start -= device
            kept: Any = slice(None)
        else:  # a result is committed in the round after, that of a leap's last step after the leap
            ends = np.cumsum([len(block._stretches) for block in blocks]) - 1
            kept = np.delete(np.arange(len(commit_at)), last[ends])
            commit_at, collect_host, commit_host = (
                np.roll(column, -1) for column in (commit_at, collect_host, commit_host)
            )
            rounds[ends] -= 1
        within = np.arange(rounds.sum()) - np.repeat(np.cumsum(rounds) - rounds, rounds)
        ordinal = np.arange(rounds.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        members = np.array(members_of)
        requests = np.repeat(members, rounds)
        kv_tokens = np.array(kv_of) + members
        kv_tokens = np.repeat(kv_tokens, rounds) + requests * within
        parts = [part for block in blocks for part in block._states]
        counts = np.array([count for count, _ in parts])
        ratios, free, evictable, protected, _ = zip(*(states for _, states in parts), strict=True)
        none = np.zeros(len(requests), dtype=np.int64)
        return [
            np.repeat(np.array([block._iteration for block in blocks]), lengths) + ordinal,
            Mode.DECODE.value,
            launch_at[kept],
            start[kept],
            (start + device)[kept],
            commit_at[kept],
            *(np.repeat(phase, rounds) for phase in (receive, schedule, prepare, launch)),
            collect_host[kept],
            commit_host[kept],
            *(none, none, none, requests, kv_tokens, kv_tokens),
            _of_rounds(ratios, counts, np.float64)[kept],
            np.repeat(np.array([block.gauges_after.waiting for block in blocks]), lengths),
            requests + np.repeat(np.array([block._aside for block in blocks]), lengths),
            *(_of_rounds(x, counts, np.int64)[kept] for x in (free, evictable, protected)),
            _newly_evicted(blocks, len(device))[kept],
        ]


def _newly_evicted(blocks: Sequence[LeapRows], rounds: int) -> Int64Array:
    """Tokens evicted by the launch of each round of these leaps: int64, shape (rounds,)."""
    new = np.zeros(rounds, dtype=np.int64)
    at = 0
    for block in blocks:
        before = block._evicted
        for count, states in block._states:
            gone = states.evicted_tokens
            if isinstance(gone, np.ndarray):
                new[at : at + count] = np.diff(gone, prepend=before)
                before = int(gone[-1])
            elif gone != before:
                new[at], before = gone - before, gone
            at += count
    return new


def _last(states: RoundStates) -> list[float]:
    return [float(s[-1]) if isinstance(s, np.ndarray) else s for s in states]


def _of_rounds(
    values: Sequence[Any], rounds: Int64Array, dtype: type[np.generic]
) -> npt.NDArray[Any]:
    """One field of `RoundStates`, of all rounds; each value is of so many of them."""
    if np.ndarray not in set(map(type, values)):
        return np.repeat(np.array(values, dtype), rounds)
    changing = [isinstance(value, np.ndarray) for value in values]
    steady = [0 if changes else value for value, changes in zip(values, changing, strict=True)]
    column = np.repeat(np.array(steady, dtype), rounds)
    each = [value for value, changes in zip(values, changing, strict=True) if changes]
    column[np.repeat(changing, rounds)] = np.concatenate(each)
    return column
