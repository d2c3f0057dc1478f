"""A WEKA document as it is written, and its prefix hashes without reading each of them.

The hashes of a call are nearly always those of the call after it, cut short: of 76 million in the
public sessions 7 million are not. So a list is left as text at first, compared with the one after
it, and read only where it is no beginning of that; calls then share one array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from traces.errors import RowError, shown
from traces.tokens import BlockTokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traces.tokens import Tokens

_READ = msgspec.Raw(b"")
_GOES_ON = frozenset(bytes([byte]) for byte in b"0123456789.eE")  # a number, cut in two


class Call(msgspec.Struct, rename={"in_": "in"}):
    """An entry of a session: a call, or a subagent with calls of its own."""

    t: object = None
    type: object = None
    in_: object = None
    out: object = None
    hash_ids: msgspec.Raw = msgspec.Raw(b"null")
    api_time: object = None
    think_time: object = None
    agent_id: object = None
    duration_ms: object = None
    requests: list[Call] | None = None


class Document(msgspec.Struct):
    """A session."""

    requests: list[Call]
    id: object = None
    block_size: object = None
    hash_id_scope: object = None


_DOCUMENT = msgspec.json.Decoder(Document)
_HASHES = msgspec.json.Decoder(list[int])


def decode(content: bytes) -> Document:
    """The document that a file holds.

    Raises:
        RowError: it is not well formed, or its requests are no list of objects.
    """
    try:
        return _DOCUMENT.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RowError(
            f"{shown(content[:40].decode(errors='replace'))} ({error})",
            "one JSON object with requests, a list of objects",
        ) from None


class _Listed(NamedTuple):
    """A call's list of hashes: their text and number, where it stands, and whose call it is."""

    body: bytes
    number: int
    field: str
    agent: str


class Blocks:
    """The prefix hashes of one document.

    Attributes:
        size: tokens per block.
        names: one more than the largest hash.
    """

    def __init__(self) -> None:
        self.size = 1
        self.names = 0
        self._listed: list[_Listed] = []
        self._hashes: list[NDArray[np.int64]] = []

    def add(self, call: Call, tokens: int, where: str, agent: str) -> None:
        """A call of an agent, in the order of the document, with its prompt's tokens.

        Raises:
            RowError: its hashes are not as many as its full blocks.
        """
        field = f"{where}.hash_ids"
        body = _body(call, field)
        found = body.count(b",") + 1 if body else 0
        if found != tokens // self.size:
            raise RowError(
                f"{found} hashes for {tokens} tokens",
                f"{tokens // self.size}: one per full block of {self.size} tokens",
                field=field,
            )
        self._listed.append(_Listed(body, found, field, agent))
        call.hash_ids = _READ  # so that the document's text is not held

    def finish(self) -> None:
        """Reads the hashes of all calls.

        Raises:
            RowError: they are not integers of 0 or more.
        """
        later: dict[str, tuple[bytes, NDArray[np.int64]]] = {}
        while self._listed:
            listed = self._listed.pop()
            text, whole = later.get(listed.agent, (b"", np.empty(0, dtype=np.int64)))
            if not _begins(listed.body, text):
                whole = _read(listed.body, listed.field)
                later[listed.agent] = listed.body, whole
                self.names = max(self.names, int(whole.max(initial=-1)) + 1)
            self._hashes.append(whole[: listed.number])
        self._hashes.reverse()

    def prompts(self, base: int, vocab_size: int) -> list[Tokens]:
        """The full blocks of each call's prompt; hash `h` becomes block `base + h`."""
        moved: dict[int, NDArray[np.int64]] = {}
        made: list[Tokens] = []
        for hashes in self._hashes:
            whole = hashes.base if isinstance(hashes.base, np.ndarray) else hashes
            if id(whole) not in moved:
                moved[id(whole)] = whole + base
                moved[id(whole)].flags.writeable = False
            ids = moved[id(whole)][: len(hashes)]
            made.append(BlockTokens(ids, self.size, self.size * len(ids), vocab_size))
        return made


def _body(call: Call, field: str) -> bytes:
    """What stands between the brackets."""
    text = bytes(call.hash_ids)
    if not text.startswith(b"["):
        raise RowError(
            shown(text[:40].decode(errors="replace")),
            "a list of prefix hashes",
            field=field,
        )
    return text[1:-1].strip()


def _begins(body: bytes, later: bytes) -> bool:
    """Whether one list is the other cut short; textually, so that equal ones may be missed."""
    return later.startswith(body) and later[len(body) : len(body) + 1] not in _GOES_ON


def _read(body: bytes, field: str) -> NDArray[np.int64]:
    expected = "integers of 0 or more that fit 64 bits"
    try:
        hashes = np.array(_HASHES.decode(b"[" + body + b"]"), dtype=np.int64)
    except (msgspec.DecodeError, OverflowError) as error:
        raise RowError(str(error), expected, field=field) from None
    if hashes.size and hashes.min() < 0:
        raise RowError(str(hashes.min()), expected, field=field)
    return hashes
