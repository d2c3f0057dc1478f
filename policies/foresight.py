"""Rounds that can be foreseen: those in which the same requests decode once more, and nothing is decided.

The scheduler says how many such rounds may follow a decode batch, and who leaves on the way at the
length it asked for; a world may go through them at once, and the scheduler then catches up. What
nobody can foresee here: who comes in, and which sequence ends by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.batch import Mode, Repetition, RoundStates
from policies.effects import Repeat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from policies.batch import Batch
    from policies.batching.base import Batching
    from policies.effects import Repeated
    from policies.scheduler import Scheduler

LOOK_AHEAD = 512
"""Rounds foreseen after the first one in which a member leaves."""


def vouches(batching: Batching, promise: str) -> bool:
    """Whether a strategy makes a promise for the planning it does itself.

    Not where a class plans otherwise than the one it derives from, and inherits the promise.

    Args:
        batching: the strategy.
        promise: a member of its class, beside `next_batch`.
    """
    for kind in type(batching).__mro__:
        if promise in vars(kind):
            return True
        if "next_batch" in vars(kind):
            return False
    return False


def foresee(s: Scheduler, batch: Batch) -> Repeat | None:
    """The rounds that may follow the batch launched last; None if none can be foreseen.

    It must be a decode batch of all that runs. While nobody joins or has to make room for another,
    rounds differ only in their number, and in who leaves.
    """
    if s.last is not batch or batch.mode is not Mode.DECODE:
        return None
    steady = s.running.steady_rounds(batch, ahead=bool(s.launched))
    if steady is None:
        return None
    if s.foresees_departures and not s.waiting:
        in_all = s.batching.repeatable(s, steady + LOOK_AHEAD)
        if in_all > steady:
            return Repeat(batch, steady, in_all, s.running.departures)
    else:
        in_all = s.batching.repeatable(s, steady) if steady else 0
    return Repeat(batch, in_all, in_all) if in_all else None


def catch_up(s: Scheduler, done: Repeated) -> tuple[Repetition, ...]:
    """Make the changes of the rounds that a world went through, at least one.

    Raises:
        RuntimeError: where there were no such rounds.
    """
    parts, left, ahead = [], done.rounds, bool(s.launched)
    while left:
        assert s.last is not None
        steady = s.running.steady_rounds(s.last, ahead=ahead)
        rounds = s.batching.at_once(s, min(steady, left)) if steady else 0
        if rounds:
            left -= rounds
            parts.append(_steadily(s, rounds, () if left else done.stops))
        if left:  # and then someone leaves, or has just left, or something is evicted
            left -= 1
            parts.append(_once(s, () if left else done.stops))
    return tuple(parts)


def _steadily(s: Scheduler, rounds: int, stops: Sequence[int]) -> Repetition:
    """Rounds in which nobody leaves; in the last, some may stop by themselves."""
    assert s.last is not None
    batch = s.last = s.last.later(rounds)
    s.iteration += rounds
    if s.launched:
        s.launched[-1] = batch
    done = s.batching.repeat(s, batch, rounds)
    if not stops:
        return done
    rows = batch.decode
    assert rows is not None
    s.batching.end_rows(s, rows, {rows.requests[i] for i in stops})
    return done._replace(ended=s.take_ended())


def _once(s: Scheduler, stops: Sequence[int]) -> Repetition:
    """A round planned and committed like any other: members leave in it or just have, or it evicts."""
    batch, memory = s.next_batch(), s.memory
    if batch is None:
        raise RuntimeError(
            f"a world went through more rounds at once than batching {s.config.batching!r} has: "
            f"{s.describe()}"
        )
    tokens = memory.free, memory.evictable, memory.protected, memory.evicted_tokens
    state = RoundStates(s.ratio.value, *tokens)
    s.batching.commit(s, s.launched.popleft(), set(stops))
    return Repetition(batch, 1, lambda: state, s.take_ended())


def states_of(
    rounds: int,
    falling: Sequence[float],
    ratio: float,
    free: Callable[[int], Sequence[int]],
    cached: tuple[int, int, int],
) -> RoundStates:
    """The states that rounds of decode leave where nothing is evicted.

    Args:
        rounds: how many.
        falling: the new-token ratio after each of the first ones.
        ratio: it after the others.
        free: makes the tokens that each of so many rounds leaves free.
        cached: evictable, protected and evicted tokens, throughout.
    """
    ratios: Sequence[float] | float = ratio
    if falling:
        ratios = [*falling, *[ratio] * (rounds - len(falling))]
    return RoundStates(ratios, free(rounds), *cached)
