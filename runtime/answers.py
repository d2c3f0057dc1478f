"""The answers of a replayed trace, given to the device in place of what it samples.

A follow-up turn's prompt holds the answers before it. Only if the model is taken to have said them does
the cache hold what the trace's prompts share, as it does in a simulation of the same trace. So a step
samples as ever, and the token that the trace has at that place takes the sample's.

It knows neither batches nor when a row changes hands: whoever admits a sequence to a row says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.tokens import TokenLog

if TYPE_CHECKING:
    import numpy.typing as npt

    from policies.tokens import TokenSource


class AnsweredLog(TokenLog):
    """A prompt whose answer is known.

    Args:
        prompt: int32, shape (tokens,).
        answer: int32, shape (tokens,).
    """

    __slots__ = ("answer",)

    def __init__(self, prompt: npt.NDArray[np.int32], answer: npt.NDArray[np.int32]) -> None:
        super().__init__(prompt)
        self.answer = answer


class Answers:
    """What each row's sequence goes on with.

    Args:
        rows: rows that requests may have, from 1.
        max_len: tokens that one request may hold.
    """

    def __init__(self, rows: int, max_len: int) -> None:
        # ids less 1, so that 0 is none: memory never written to is never there
        self._ids = np.zeros((rows + 1, max_len + 1), dtype=np.int32)

    def admit(self, row: int, tokens: TokenSource) -> None:
        """From now on a row is of a sequence with these tokens; its answer is told if it is known."""
        ids = self._ids[row]
        ids[:] = 0
        if isinstance(tokens, AnsweredLog):
            answer = tokens.answer[: len(ids) - tokens.prompt_len]
            ids[tokens.prompt_len : tokens.prompt_len + len(answer)] = answer + 1

    def at(
        self, rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """The ids at places of the sequences in some rows, -1 where none is known; int64, shape (n,)."""
        return self._ids[rows, positions].astype(np.int64) - 1
