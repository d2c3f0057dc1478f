"""Prompts and answers of traces that hold text, with a tokenizer or without.

Without one a token is four bytes of UTF-8 (`traces.tokens.text_tokens`): lengths are approximate,
beginnings that texts have in common stay common. What had to be assumed is counted, for the
workload's meta.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traces.errors import RowError, shown
from traces.readers.fields import length
from traces.tokens import ExplicitTokens, SyntheticTokens, text_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from traces.readers.fields import Row
    from traces.tokens import Tokens

ASSUMED_OUTPUT = 256
"""Tokens of an answer that a trace says nothing of: what `vllm bench serve` takes for its custom
datasets (`--custom-output-len`)."""


class Texts:
    """Makes tokens of what one trace says, and remembers what it did not say.

    Args:
        vocab_size: ids that are made lie below it.
        encode: makes token ids of a text; None where no tokenizer is at hand.

    Attributes:
        media: images, audio and video that were not read.
    """

    def __init__(
        self, vocab_size: int, encode: Callable[[str], Sequence[int]] | None = None
    ) -> None:
        self.media = 0
        self._encode = encode
        self._vocab_size = vocab_size
        self._texts = 0
        self._assumed = 0
        self._empty = 0
        self._answers = 0

    def text(self, value: object, field: str) -> str:
        """A string.

        Raises:
            RowError: it is none.
        """
        if not isinstance(value, str):
            raise RowError(shown(value), "a text", field=field)
        return value

    def prompt(self, value: object, field: str) -> Tokens:
        """The tokens of a prompt; an empty one is read as one token."""
        return self._tokens(self.text(value, field))

    def answer(self, value: object, field: str) -> Tokens:
        """The tokens of an answer that the trace holds; an empty one is read as one token."""
        return self._tokens(self.text(value, field))

    def output(self, tokens: object, field: str = "output_length") -> Tokens:
        """An answer of so many tokens, or of `ASSUMED_OUTPUT` where the trace does not say."""
        if tokens is None:
            self._assumed += 1
        self._answers += 1
        known = ASSUMED_OUTPUT if tokens is None else length(tokens, field)
        # odd keys, so that no prompt made from a row's number is the same
        return SyntheticTokens(2 * self._answers + 1, known, self._vocab_size)

    def message(self, message: Row, field: str) -> str:
        """A chat message as one text: who speaks, and what is said."""
        content = message.get("content")
        if isinstance(content, list):  # parts, as multimodal messages have
            said = [part.get("text") for part in content if isinstance(part, dict)]
            self.media += sum(text is None for text in said)
            content = "\n".join(self.text(text, field) for text in said if text is not None)
        role = message.get("role", "user")
        return f"{role}: {'' if content is None else self.text(content, field)}"

    def payload(self, value: object) -> str:
        """What the request body of an OpenAI server asks: its messages, or its prompt."""
        if isinstance(value, dict):
            if isinstance(value.get("prompt"), str):
                return str(value["prompt"])
            messages = value.get("messages")
            if isinstance(messages, list) and all(isinstance(m, dict) for m in messages):
                return "\n".join(self.message(m, "payload.messages") for m in messages)
        raise RowError(shown(value), "an object with prompt or messages", field="payload")

    def meta(self) -> dict[str, object]:
        """What to say about how texts were read; nothing where there were none."""
        meta: dict[str, object] = {}
        if self._texts:
            approximate = "approximate: one for every four bytes of text, no tokenizer"
            meta["tokens"] = approximate if self._encode is None else "by a tokenizer"
        if self._assumed:
            meta["assumed_output_tokens"] = ASSUMED_OUTPUT
            meta["assumed_outputs"] = self._assumed
        if self._empty:
            meta["empty_texts_read_as_one_token"] = self._empty
        if self.media:
            meta["media_not_read"] = self.media
        return meta

    def _tokens(self, text: str) -> Tokens:
        self._texts += 1
        self._empty += not text
        text = text or " "
        if self._encode is None:
            return text_tokens(text, self._vocab_size)
        return ExplicitTokens(self._encode(text))
