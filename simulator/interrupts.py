"""Ctrl-C takes effect between two rounds of a simulation, where everything recorded agrees.

Python raises `KeyboardInterrupt` at whatever instruction it stands. A recorder that has noted when tokens
came, but not yet for whom, could then not be brought to an end. So an interrupt is noted, and raised
where a round begins.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HELD = 2
"""Interrupts held back at most; the next is handled at once, as a policy may not return. One may come from
the terminal and one from the parent process, for the same key."""


@contextmanager
def interrupts_between_rounds() -> Iterator[Callable[[], None]]:
    """Hold interrupts back; gives what to call between rounds, which hands them to whom they were for.

    Outside the main thread, and where interrupts are ignored, it changes nothing.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield lambda: None
        return
    held: list[int] = []

    def note(signum: int, frame: object) -> None:
        held.append(signum)
        if len(held) > HELD:
            held.clear()
            handler(signum, frame)  # type: ignore[arg-type]

    def let() -> None:
        if held:
            held.clear()
            handler(signal.SIGINT, None)

    signal.signal(signal.SIGINT, note)
    try:
        yield let
        let()
    finally:
        signal.signal(signal.SIGINT, handler)
