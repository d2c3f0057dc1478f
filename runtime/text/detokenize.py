"""Incremental detokenisation: what each token adds to the text.

A token's text depends on its neighbours: a character may be spread over several tokens, and a
tokenizer may drop a leading space. So the last few tokens are decoded together, and what is new
against the last time is given out. The end is held back while it may be an unfinished character,
which decoders show as U+FFFD. Knows nothing of vocabularies: it needs `decode` only.

What comes out is, joined, what decoding all tokens at once gives, for byte-level tokenizers (also
where the bytes are no valid UTF-8), and for those with byte fallback as long as the bytes are valid.
`decode` must not tidy up spaces, which would change text that was given out already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

UNFINISHED = "\ufffd"
_LONGEST_HOLD = 3  # bytes of an unfinished character, each of which may show
_LONGEST_WINDOW = 10  # tokens that are decoded together at most, as a rule
_CONTEXT = 4  # tokens kept before what is new
_DISORDER = 8  # tokens kept where bytes are no text: the rest of a character begun before is 3
_PATIENCE = 8  # tokens that may change what was given out before it is held to be final


class Decodes(Protocol):
    """Of a tokenizer, what is needed here."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, bytes that are no UTF-8 replaced by U+FFFD."""
        ...


class Detokenizer:
    """The text of one sequence, token by token; constant work for each."""

    __slots__ = ("_clean", "_decode", "_given", "_text", "_window")

    def __init__(self, tokenizer: Decodes) -> None:
        self._decode = tokenizer.decode
        self._window: list[int] = []  # the last tokens
        self._text = ""  # theirs
        self._given = ""  # what of it was given out
        self._clean: list[int] = []  # lengths of the window at which everything was given out

    def push(self, token: int) -> str:
        """What is certain of the text now and was not before; often all of the token's, or "".

        Args:
            token: id that follows those pushed before.
        """
        before = self._text
        self._window.append(token)
        self._text = text = self._decode(self._window)
        if text == before and not self._decode([token, token]):
            self._window.pop()  # stands for nothing, as special tokens: no context to others
            return ""
        if not text.startswith(self._given):
            return self._rewritten()
        unfinished = len(text) - len(text.rstrip(UNFINISHED))
        certain = text[: len(text) - min(unfinished, _LONGEST_HOLD)]
        delta = certain[len(self._given) :]
        if delta:
            self._given = certain
        if self._given == text:
            self._clean.append(len(self._window))
        if len(self._window) >= _LONGEST_WINDOW:
            self._shorten()
        return delta

    def finish(self) -> str:
        """The rest, an unfinished character included: no more tokens will come."""
        text, given = self._text, self._given
        if not text.startswith(given):
            text, given = self._decode(self._window[self._last_clean :]), ""
        self._window, self._text, self._given, self._clean = [], "", "", []
        return text[len(given) :]

    @property
    def _last_clean(self) -> int:
        return self._clean[-1] if self._clean else 0

    def _rewritten(self) -> str:
        """The text given out changed: byte fallback, whose unfinished run of bytes shows as a whole.

        It changes back when the character is complete. If it does not within reason, the bytes are
        no text, and what follows the last good place is given out as it is.
        """
        start = self._last_clean
        if len(self._window) - start <= _PATIENCE:
            return ""
        del self._window[:start]
        self._text = self._given = self._decode(self._window)
        self._clean = [len(self._window)]
        return self._given

    def _shorten(self) -> None:
        """Forget tokens that later ones no longer depend on.

        From a place where everything was given out, decoding starts afresh in the same way. Where
        there is none, the bytes are no text; decoding from any place then misreads the rest of one
        character, three bytes, and goes on as if it had begun before.
        """
        size = len(self._window)
        start = max((at for at in self._clean if at <= size - _CONTEXT), default=0)
        if not start:
            if size < 2 * _DISORDER:
                return
            start = size - _DISORDER
        held = len(self._text) - len(self._given)
        del self._window[:start]
        self._text = self._decode(self._window)
        self._given = self._text[: len(self._text) - held]
        self._clean = [at - start for at in self._clean if at > start]
