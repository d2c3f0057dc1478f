"""The first tokens of a sequence, as a prefix cache looks at them.

A cache asks few things: how long, which id stands at a place, how far two sequences agree, and for
something to keep. Tokens that were written down (a client's prompt, sampled outputs) are compared id by
id and copied to be kept. Tokens known beforehand (a trace's) are compared by what they are named by, and
kept by reference: a prompt of a hundred thousand tokens is then entered and found without being made.

Places count from the start of the sequence, everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from policies.tokens import KnownTokens, same_ids

if TYPE_CHECKING:
    from policies.tokens import Int32Array, TokenSource


class TokenPrefix(Protocol):
    """See the module."""

    def __len__(self) -> int:
        """Where the prefix ends."""
        ...

    def ids(self, start: int, stop: int) -> Int32Array:
        """The ids at places [start, stop): int32."""
        ...

    def id_at(self, at: int) -> int:
        """The id at one place."""
        ...

    def agreement(self, other: TokenPrefix, start: int, stop: int) -> int:
        """How many tokens from `start` on, before `stop`, are the same in both."""
        ...

    def keep(self, start: int, stop: int) -> TokenPrefix:
        """The same, for the places [start, stop) alone, and for good."""
        ...


class WrittenPrefix:
    """Ids written down.

    Args:
        ids: int32, those at places from `base` on.
        base: the first place.
    """

    __slots__ = ("_base", "_ids")

    def __init__(self, ids: Int32Array, base: int = 0) -> None:
        self._ids = ids
        self._base = base

    def __len__(self) -> int:
        return self._base + len(self._ids)

    def ids(self, start: int, stop: int) -> Int32Array:
        """See `TokenPrefix.ids`."""
        return self._ids[start - self._base : stop - self._base]

    def id_at(self, at: int) -> int:
        """See `TokenPrefix.id_at`."""
        return int(self._ids[at - self._base])

    def agreement(self, other: TokenPrefix, start: int, stop: int) -> int:
        """See `TokenPrefix.agreement`."""
        return same_ids(self.ids(start, stop), other.ids(start, stop))

    def keep(self, start: int, stop: int) -> WrittenPrefix:
        """See `TokenPrefix.keep`: a copy, as what is written may be written over."""
        return WrittenPrefix(self.ids(start, stop).copy(), start)


class KnownPrefix:
    """The first `stop` of tokens that are known beforehand."""

    __slots__ = ("_stop", "_tokens")

    def __init__(self, tokens: KnownTokens, stop: int) -> None:
        self._tokens = tokens
        self._stop = stop

    def __len__(self) -> int:
        return self._stop

    def ids(self, start: int, stop: int) -> Int32Array:
        """See `TokenPrefix.ids`."""
        return self._tokens.ids(start, stop)

    def id_at(self, at: int) -> int:
        """See `TokenPrefix.id_at`."""
        return self._tokens.id_at(at)

    def agreement(self, other: TokenPrefix, start: int, stop: int) -> int:
        """See `TokenPrefix.agreement`."""
        if isinstance(other, KnownPrefix):
            return self._tokens.agreement(other._tokens, start, stop)
        return same_ids(self.ids(start, stop), other.ids(start, stop))

    def keep(self, start: int, stop: int) -> KnownPrefix:  # noqa: ARG002 - it holds no ids
        """See `TokenPrefix.keep`."""
        return self


def first_tokens(tokens: TokenSource, stop: int) -> TokenPrefix:
    """The first `stop` tokens of a request."""
    if isinstance(tokens, KnownTokens):
        return KnownPrefix(tokens, stop)
    return WrittenPrefix(tokens.read(stop))


def known_tokens(tokens: TokenSource, stop: int) -> TokenPrefix:
    """A request's tokens as far as they are known beforehand, the first `stop` of them at least.

    For what only names tokens: it may name later ones with the first, as they will not be others.
    """
    if isinstance(tokens, KnownTokens):
        return KnownPrefix(tokens, max(stop, len(tokens._prompt) + len(tokens._output)))
    return WrittenPrefix(tokens.read(stop))
