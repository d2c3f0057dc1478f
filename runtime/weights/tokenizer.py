"""Text to token ids and back, with the chat template and the tokens that end an answer.

A `Tokenizer` wraps one of the `tokenizers` package, whether it was read from a folder's
`tokenizer.json` or built from a GGUF (`runtime.weights.gguf_tokenizer`). Turning a stream of tokens
into text as it grows is not done here.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import tokenizers

from policies.shapes.config_json import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runtime.models.config import ModelConfig
    from runtime.weights.chat_template import ChatTemplate

SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "pad_token")
_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
        backend: the tokenizer of the `tokenizers` package.
        bos_id: the token a text begins with; None if there is none.
        eos_ids: tokens that end an answer.
        special_tokens: `bos_token`, `eos_token` ... as text, those there are.
        chat_template: None where the checkpoint brings none.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_id: int | None = None,
        eos_ids: Sequence[int] = (),
        special_tokens: Mapping[str, str] | None = None,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        self.backend = backend
        self.bos_id = bos_id
        self.eos_ids = tuple(eos_ids)
        self.special_tokens = dict(special_tokens or {})
        self.chat_template = chat_template

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest token id; a model's vocabulary may be larger."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: special tokens written in it are taken as such.
            add_special_tokens: begin with the token that the checkpoint begins texts with, if any.
        """
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; ids that stand for nothing are left out, broken UTF-8 shows as U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for inside a text; none for an id that stands for nothing.

        Of a tokenizer that marks the beginnings of words, a word's first token begins with a space.
        """
        piece = self.backend.id_to_token(token)
        if piece is None:
            return b""
        if token in self._added:
            return piece.encode()
        if self._byte_level and _BYTES.keys() >= set(piece):
            return bytes(_BYTES[char] for char in piece)
        byte = _BYTE_PIECE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """Token ids of a chat, ready to be answered.

        Raises:
            ValueError: there is no chat template, or it refuses the messages.
        """
        if self.chat_template is None:
            msg = "this checkpoint has no chat template; send the text itself"
            raise ValueError(msg)
        text = self.chat_template.render(
            messages, add_generation_prompt=add_generation_prompt, **variables
        )
        return self.encode(text, add_special_tokens=False)  # the template writes them itself

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self.backend.get_added_tokens_decoder())

    @cached_property
    def _byte_level(self) -> bool:
        # 'Ġ' is how byte-level vocabularies write a space
        return "\u2581" not in self.backend.get_vocab() and "\u0120" in self.backend.get_vocab()


def folder_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer in a HuggingFace folder; None if there is none.

    Raises:
        ValueError: a file that cannot be read, or a tokenizer of another kind than
            `tokenizer.json`.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        others = [n for n in ("tokenizer.model", "vocab.json") if (folder / n).is_file()]
        if others:
            msg = (
                f"{folder}: {others[0]} is there but tokenizer.json is not; save the tokenizer with "
                "transformers, which writes it"
            )
            raise ValueError(msg)
        return None
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises no narrower type
        raise ValueError(f"{file}: not a readable tokenizer: {error}") from error
    settings_file = folder / "tokenizer_config.json"
    settings = read_json(settings_file) if settings_file.is_file() else {}
    special = {key: _text(settings[key]) for key in SPECIAL if settings.get(key)}
    bos, eos = (backend.token_to_id(special.get(key, "")) for key in ("bos_token", "eos_token"))
    own_eos = () if eos is None else (eos,)
    return Tokenizer(
        backend,
        bos_id=config.bos_id if bos is None else bos,
        eos_ids=config.eos_ids or own_eos,
        special_tokens=special,
        chat_template=_chat_template(folder, settings, special),
    )


def _text(token: Any) -> str:
    """A special token as text; older files keep an object with its flags."""
    return str(token["content"] if isinstance(token, dict) else token)


def _chat_template(
    folder: Path, settings: dict[str, Any], special: dict[str, str]
) -> ChatTemplate | None:
    from runtime.weights.chat_template import ChatTemplate

    file = folder / "chat_template.jinja"
    if file.is_file():
        return ChatTemplate(file.read_text(encoding="utf-8"), special, str(file))
    source = settings.get("chat_template")
    if isinstance(source, list):  # several by name; tool calls have their own
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("default")
    if source is None:
        return None
    return ChatTemplate(source, special, str(folder / "tokenizer_config.json"))


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes as (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    pairs = [(chr(byte), byte) for byte in printable]
    return dict(pairs + [(chr(256 + i), byte) for i, byte in enumerate(others)])


_BYTES: Final = _byte_alphabet()
