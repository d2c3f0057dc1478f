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
    from policies.batch import Batch
    from policies.effects import Repeated
    from policies.scheduler import Scheduler

LOOK_AHEAD = 512
"""Rounds foreseen after the first one in which a member leaves."""


def foresee(s: Scheduler, batch: Batch) -> Repeat | None:
    """The rounds that may follow the batch launched last; None if none can be foreseen.

    It must be a decode batch whose members have all decoded before. While nobody joins or has to make
    room for another, rounds differ only in their number, and in who leaves.
    """
    if s.last is not batch or batch.mode is not Mode.DECODE:
        return None
    steady = s.running.steady_rounds(batch, ahead=bool(s.launched))
    if steady is None:
        return None
    if s.batching.foresees_departures and not s.waiting:
        in_all = s.batching.repeatable(s, steady + LOOK_AHEAD)
        if in_all > steady:
            return Repeat(batch, steady, in_all, s.running.departures)
    else:
        in_all = s.batching.repeatable(s, steady) if steady else 0
    return Repeat(batch, in_all, in_all) if in_all else None


def catch_up(s: Scheduler, done: Repeated) -> tuple[Repetition, ...]:
    """Make the changes of the rounds that a world went through, at least one."""
    parts, left = [], done.rounds
    while left:
        assert s.last is not None
        steady = s.running.steady_rounds(s.last, ahead=bool(s.launched))
        rounds = min(steady or 0, left)
        parts.append(_steadily(s, rounds) if rounds else _once(s))
        left -= rounds or 1
    if done.stops:
        rows = parts[-1].batch.decode
        assert rows is not None
        s.batching.end_rows(s, rows, {rows.requests[i] for i in done.stops})
        parts[-1] = parts[-1]._replace(ended=s.take_ended())
    return tuple(parts)


def _steadily(s: Scheduler, rounds: int) -> Repetition:
    """Rounds in which nobody leaves."""
    assert s.last is not None
    batch = s.last = s.last.later(rounds)
    s.iteration += rounds
    if s.launched:
        s.launched[-1] = batch
    return s.batching.repeat(s, batch, rounds)


def _once(s: Scheduler) -> Repetition:
    """A round planned and committed like any other, because members leave in it or just have."""
    batch, memory = s.next_batch(), s.memory
    assert batch is not None
    tokens = memory.free, memory.evictable, memory.protected, memory.evicted_tokens
    state = RoundStates(s.ratio.value, *tokens)
    s.batching.commit(s, s.launched.popleft(), set())
    return Repetition(batch, 1, lambda: state, s.take_ended())
