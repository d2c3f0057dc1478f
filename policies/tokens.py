"""Where a request's token ids come from.

The scheduler counts tokens; it reads ids only to look a prefix up in the cache or to enter one. So ids
stay with whoever makes them (a trace, a client, a sampler), behind `TokenSource`, and are read up to
the length that the scheduler has accepted. This module does not know what a token means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

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


class NamedTokens(SizedTokens, Protocol):
    """A fixed token sequence that can say something of itself without being made."""

    def ids(self, start: int, stop: int) -> Int32Array:
        """The ids at places [start, stop): int32."""
        ...

    def id_at(self, at: int) -> int:
        """The id at one place."""
        ...

    def shared(self, other: object) -> int:
        """How many first tokens it surely has in common with another, going by their names alone."""
        ...


class KnownTokens:
    """Prompt and outputs that are known beforehand, as when a trace is replayed.

    The ids are made at the first read and kept until `forget`. Two such sequences can be compared, and
    places looked at, without making them whole where their parts are `NamedTokens`.
    """

    __slots__ = ("_looked_up", "_made", "_output", "_parts", "_prompt", "prompt_len")

    def __init__(self, prompt: SizedTokens, output: SizedTokens) -> None:
        self._prompt = prompt
        self._output = output
        self._made: Int32Array | None = None
        self._parts: list[tuple[int, int, NamedTokens]] | None = None
        self._looked_up: dict[int, int] = {}  # place -> id: few are, and those again and again
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
        self._looked_up.clear()

    def ids(self, start: int, stop: int) -> Int32Array:
        """The ids at places [start, stop), int32; nothing is kept of them."""
        if self._made is not None:
            return self.read(stop)[start:]
        pieces = []
        for begin, end, part in self._layout():
            first, last = max(start, begin), min(stop, end)
            if first >= last:
                continue
            pieces.append(part.ids(first - begin, last - begin))
        found = pieces[0] if len(pieces) == 1 else np.concatenate([_NO_IDS, *pieces])
        missing = stop - start - len(found)
        return np.pad(found, (0, missing)) if missing else found

    def id_at(self, at: int) -> int:
        """The id at one place; 0 past the known ones."""
        found = self._looked_up.get(at)
        if found is None:
            whole, place = self._prompt, at
            if at >= self.prompt_len:
                whole, place = self._output, at - self.prompt_len
                if place >= len(whole):
                    return 0
            named = whole if hasattr(whole, "id_at") else _Unnamed(whole)
            found = self._looked_up[at] = named.id_at(place)
        return found

    def agreement(self, other: KnownTokens, start: int, stop: int) -> int:
        """How many tokens from `start` on, before `stop`, are the same in both."""
        if other is self:
            return stop - start
        at = start
        theirs = iter(other._layout())
        their_begin, their_end, their_part = next(theirs, _NO_PART)
        for begin, end, part in self._layout():
            if end <= at:
                continue
            while their_end <= at:
                their_begin, their_end, their_part = next(theirs, _NO_PART)
            if begin != their_begin:
                break
            at = max(at, min(begin + part.shared(their_part), stop))
            if at < end or at >= stop:
                break
        return at - start + self._compare(other, at, stop)

    def _compare(self, other: KnownTokens, start: int, stop: int) -> int:
        """As `agreement`, token by token; few at a time, as most sequences part at once."""
        if start >= stop or self.id_at(start) != other.id_at(start):
            return 0
        at, window = start, 16
        while at < stop:
            upto = min(at + window, stop)
            same = same_ids(self.ids(at, upto), other.ids(at, upto))
            at += same
            if at < upto:
                break
            window *= 8
        return at - start

    def _layout(self) -> list[tuple[int, int, NamedTokens]]:
        """The parts it is joined from: where each begins and ends, and the part."""
        if self._parts is None:
            self._parts, at = [], 0
            for whole in (self._prompt, self._output):
                parts: tuple[Any, ...] = getattr(whole, "parts", (whole,))
                for part in parts:
                    if len(part):
                        named = part if hasattr(part, "shared") else _Unnamed(part)
                        self._parts.append((at, at + len(part), named))
                        at += len(part)
        return self._parts


class _Unnamed:
    """A token sequence that has no name: it has to be made to be looked at."""

    __slots__ = ("_tokens",)

    def __init__(self, tokens: SizedTokens) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def array(self) -> Int32Array:
        return self._tokens.array()

    def ids(self, start: int, stop: int) -> Int32Array:
        return self._tokens.array()[start:stop]

    def id_at(self, at: int) -> int:
        return int(self._tokens.array()[at])

    def shared(self, other: object) -> int:
        same = isinstance(other, _Unnamed) and other._tokens is self._tokens
        return len(self._tokens) if same else 0


_NO_IDS: Int32Array = np.zeros(0, dtype=np.int32)
_NO_PART: tuple[float, float, object] = (-1, float("inf"), None)


def same_ids(one: Int32Array, other: Int32Array) -> int:
    """How many first ids of two arrays of one length are the same."""
    differs = one != other
    first = int(differs.argmax())
    return first if differs[first] else len(one)


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
