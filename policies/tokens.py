"""Where a request's token ids come from.

The scheduler counts tokens; it reads ids only to look a prefix up in the cache or to enter one. So ids
stay with whoever makes them (a trace, a client, a sampler), behind `TokenSource`, and are read up to
the length that the scheduler has accepted. This module does not know what a token means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Int32Array = npt.NDArray[np.int32]


class TokenSource(Protocol):
    """A prompt and the outputs that follow it, as one sequence of token ids."""

    @property
    def prompt_len(self) -> int:
        """Tokens in the prompt."""
        ...

    def read(self, stop: int) -> Int32Array:
        """The first `stop` ids of prompt and outputs: int32, shape (stop,), not to be written to."""
        ...


class SizedTokens(Protocol):
    """A fixed token sequence that may be made only when it is needed."""

    def __len__(self) -> int: ...

    def array(self) -> Int32Array:
        """All ids: int32, shape (len,)."""
        ...


class KnownTokens:
    """Prompt and outputs that are known beforehand, as when a trace is replayed.

    The ids are made at the first read and kept until `forget`.
    """

    __slots__ = ("_made", "_output", "_prompt", "prompt_len")

    def __init__(self, prompt: SizedTokens, output: SizedTokens) -> None:
        self._prompt = prompt
        self._output = output
        self._made: Int32Array | None = None
        self.prompt_len = len(prompt)

    def read(self, stop: int) -> Int32Array:
        """See `TokenSource.read`. Outputs past the known ones read as 0: overshoot, never kept."""
        if self._made is None:
            self._made = np.concatenate([self._prompt.array(), self._output.array()])
        if stop > len(self._made):
            return np.pad(self._made, (0, stop - len(self._made)))
        return self._made[:stop]

    def forget(self) -> None:
        """Give the memory of the made ids back; they are made again if read again."""
        self._made = None


class TokenLog:
    """A prompt given as ids and outputs written as they are sampled, each at its position.

    Writing by position makes a token that is computed twice (after a retraction) land where the
    first one was.
    """

    __slots__ = ("_ids", "prompt_len")

    def __init__(self, prompt: Sequence[int] | Int32Array) -> None:
        self._ids = np.array(prompt, dtype=np.int32)
        self.prompt_len = len(self._ids)

    def write(self, output_index: int, token: int) -> None:
        """Set the output token with index `output_index` (0 is the first after the prompt)."""
        at = self.prompt_len + output_index
        if at >= len(self._ids):
            grown = np.zeros(max(16, 2 * at), dtype=np.int32)
            grown[: len(self._ids)] = self._ids
            self._ids = grown
        self._ids[at] = token

    def read(self, stop: int) -> Int32Array:
        """See `TokenSource.read`."""
        if stop > len(self._ids):
            msg = f"read({stop}) past the {len(self._ids)} tokens written"
            raise IndexError(msg)
        return self._ids[:stop]
