"""What chats and agents have in common: a history that grows, and sessions that run side by side.

A session's next prompt is all that was said before, prompt and answer, and something new, token for
token, so that a prefix cache finds it. Each request names the one it waits for and for how long,
for closed loops; for open ones it is stamped as if answers took the time an `AnswerTime` says.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from traces.generate.options import NonNegative, Options
from traces.tokens import JoinedTokens, SyntheticTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from traces.generate.naming import Naming
    from traces.workload import TraceRequest


class AnswerTime(Options):
    """How long an answer is taken to last where requests are stamped. A world measures its own.

    The defaults are fitted to claude-opus-4-5 in the WEKA agentic traces (20,561 requests, R2 0.88):
    1.69 s, 14.5 ms an output token, 35 us a prompt token not cached and 11 us any prompt token.
    """

    base_s: NonNegative = 1.691
    per_output_token_s: NonNegative = 0.01453
    per_new_token_s: NonNegative = 0.0000352
    per_prompt_token_s: NonNegative = 0.00001126

    def ns(self, prompt: int, new: int, output: int) -> int:
        """Nanoseconds, a whole number of microseconds, for lengths in tokens."""
        seconds = (
            self.base_s
            + self.per_output_token_s * output
            + self.per_new_token_s * new
            + self.per_prompt_token_s * prompt
        )
        return round(seconds * 1e6) * 1_000


class History:
    """All that was said in a session so far, as parts.

    Args:
        names: where the session's texts get their keys.
        session: its number.
        pieces: numbers of its texts; histories of one session share them.
        begins: texts that other sessions begin with too.
    """

    def __init__(
        self,
        names: Naming,
        session: int,
        pieces: Iterator[int],
        begins: Iterable[SyntheticTokens] = (),
    ) -> None:
        self._names = names
        self._session = session
        self._pieces = pieces
        self._parts: list[SyntheticTokens] = [text for text in begins if text.length]
        self.length = sum(text.length for text in self._parts)

    def add(self, length: int) -> SyntheticTokens:
        """A new text at the end."""
        text = self._names.said(self._session, next(self._pieces), length)
        if length:
            self._parts.append(text)
            self.length += length
        return text

    def cut(self, keep: int) -> None:
        """Forgets all but the first `keep` tokens."""
        kept: list[SyntheticTokens] = []
        for text in self._parts:
            length = min(text.length, keep)
            if length:
                kept.append(
                    text
                    if length == text.length
                    else SyntheticTokens(text.key, length, text.vocab_size)
                )
            keep -= length
        self._parts = kept
        self.length = sum(text.length for text in kept)

    def prompt(self) -> JoinedTokens:
        """The whole of it."""
        return JoinedTokens(self._parts)


def side_by_side(
    starts_ns: Iterable[NDArray[np.int64]], begin: Callable[[int, int], Iterator[TraceRequest]]
) -> Iterator[TraceRequest]:
    """The requests of sessions in order of arrival, with only those that are under way held.

    Args:
        starts_ns: when sessions start, ascending, in blocks.
        begin: makes a session's requests, in order of arrival, from its number and its start.
    """
    live: list[tuple[int, int, TraceRequest, Iterator[TraceRequest]]] = []
    number = 0
    for block in starts_ns:
        for start in block.tolist():
            yield from _until(live, start)
            _hold(live, number, begin(number, start))
            number += 1
    yield from _until(live, None)


def _hold(
    live: list[tuple[int, int, TraceRequest, Iterator[TraceRequest]]],
    number: int,
    coming: Iterator[TraceRequest],
) -> None:
    request = next(coming, None)
    if request is not None:
        heappush(live, (request.arrival_ns, number, request, coming))


def _until(
    live: list[tuple[int, int, TraceRequest, Iterator[TraceRequest]]], end_ns: int | None
) -> Iterator[TraceRequest]:
    while live and (end_ns is None or live[0][0] <= end_ns):
        _, number, request, coming = heappop(live)
        yield request
        _hold(live, number, coming)
