"""Names for what is generated: request ids, session ids, and the keys that texts are made from.

Two texts share no token unless they have one key. Each tenant's keys lie apart, and within them what
all share, what a session says and what single requests say. Knows no lengths and no times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traces.tokens import VOCAB_SIZE, SyntheticTokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TENANT = 1 << 56
_SHARED = 1 << 55
_PER_SESSION = 1 << 20
_BLOCKS = 1 << 40
MAX_TENANTS = 127


@dataclass(frozen=True, slots=True)
class Naming:
    """The names of one stream of requests.

    Attributes:
        tenant: who they are sent by, if several are told apart; begins every id.
        number: of the tenant, from 0 to `MAX_TENANTS`.
        vocab_size: token ids lie below it.
    """

    tenant: str | None = None
    number: int = 0
    vocab_size: int = VOCAB_SIZE

    def request(self, row: int) -> str:
        """The id of a request that has no session, or is told when to arrive."""
        return self._name("r", row)

    def session(self, number: int) -> str:
        """The id of a session."""
        return self._name("s", number)

    def text(self, key: int, length: int) -> SyntheticTokens:
        """The text of a request, by a number of its own."""
        return SyntheticTokens(self.number * _TENANT + key, length, self.vocab_size)

    def shared(self, key: int, length: int) -> SyntheticTokens:
        """A text that several sessions begin with."""
        return SyntheticTokens(self.number * _TENANT + _SHARED + key, length, self.vocab_size)

    def said(self, session: int, piece: int, length: int) -> SyntheticTokens:
        """The text that a session adds, by the piece's number in it."""
        return self.text(session * _PER_SESSION + piece, length)

    def blocks(self, numbers: list[int]) -> NDArray[np.int64]:
        """Prefix hashes, by the blocks' numbers."""
        return np.array(numbers, dtype=np.int64) + self.number * _BLOCKS

    def _name(self, letter: str, number: int) -> str:
        name = f"{letter}{number:06d}"
        return name if self.tenant is None else f"{self.tenant}-{name}"
