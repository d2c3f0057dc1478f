"""Stop strings, found across the pieces in which text comes.

Text that may turn out to be the beginning of a stop string is held back until it is known. The result
does not depend on how the text was cut into pieces: the stop string that is complete first ends the
text, and of several complete at one character the longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopStrings:
    """Looks for stop strings in one text.

    Args:
        strings: none of them empty.
        include: the text given out ends with the stop string instead of before it.
    """

    __slots__ = ("_held", "_include", "_strings", "found")

    def __init__(self, strings: Sequence[str], *, include: bool = False) -> None:
        self._strings = tuple(strings)
        self._include = include
        self._held = ""
        self.found: str | None = None  # the stop string that ended the text

    def push(self, piece: str, *, armed: bool = True) -> str:
        """What can be given out of the text now; nothing more once `found` is set.

        Args:
            piece: text that follows what was pushed before.
            armed: a stop string that is complete within this piece ends the text; else it is text
                like any other.
        """
        if self.found is not None:
            return ""
        text = self._held + piece
        if armed:
            ends = [
                (at + len(stop), at, stop)
                for stop in self._strings
                if (at := text.find(stop, max(0, len(self._held) - len(stop) + 1))) >= 0
            ]
            if ends:
                end, start, self.found = min(ends)
                self._held = ""
                return text[: end if self._include else start]
        keep = max((_begun(text, stop) for stop in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back: no more text will come."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """Characters at the end of the text that are a beginning of the stop string, the most."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
