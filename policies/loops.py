"""The event loops: the overlap strategies, in full.

Both are the same lines in either world. What they do not know: how long anything takes, and where
tokens come from. The lines with `foresee` only save work: where rounds would differ in nothing but their
number, a world may go through many at once. Without them the loops do the same, round by round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.effects import RECEIVE, Collect, Launch, Loop, Report, Sleep

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.scheduler import Scheduler


def serial(s: Scheduler) -> Loop:
    """The device idles while the host schedules: each step is collected before the next is planned."""
    while True:
        yield Report(s.receive((yield RECEIVE)))
        batch = s.next_batch()
        if batch is not None:
            yield Report(s.commit(batch, (yield Collect((yield Launch(batch))))))
            if (repeat := s.foresee(batch)) is not None:
                yield Report(s.repeat((yield repeat)))
        elif s.is_idle():
            s.on_idle()
            yield Sleep(s.wake_at())


def overlapped(s: Scheduler) -> Loop:
    """The host schedules step n+1 while the device runs step n, one token behind what it knows."""
    pending = None
    while True:
        yield Report(s.receive((yield RECEIVE)))
        batch = s.next_batch()
        launched = None if batch is None else (batch, (yield Launch(batch)))
        if pending is None and launched is not None and s.nothing_left():
            pending, launched = launched, None  # an empty batch with nothing behind it
        if pending is not None:
            done, ticket = pending
            yield Report(s.commit(done, (yield Collect(ticket))))
        elif launched is None and s.is_idle():
            s.on_idle()
            yield Sleep(s.wake_at())
        pending = launched
        if pending is not None and (repeat := s.foresee(pending[0])) is not None:
            done = yield repeat
            yield Report(s.repeat(done))
            if done.rounds:
                pending = s.launched[-1], done.ticket


LOOPS: dict[str, Callable[[Scheduler], Loop]] = {"serial": serial, "overlapped": overlapped}
